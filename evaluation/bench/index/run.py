"""Runner of `gmvaluator bench index`: makes the vectors and measures the requested sections, with cached results."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.index import rates, tables
from evaluation.bench.index.collection import show_progress
from evaluation.bench.index.images import PROFILE, embedded, given_pictures, held_out_queries, joined, sample_pictures
from evaluation.bench.index.vectors import MIXED, Vectors, two_nn_dimension
from gmvaluator.files import atomic_write
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Embeddings, Float32Array

SECTIONS = ("indexing", "embeddings", "queries", "compressions", "growth")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts to measure; the defaults are the complete measurement.

    points: vectors of the sections `queries` and `compressions`. embed: how many of these are embeddings of real
    images; the rest is interpolated. questions: held-out queries. images: works per round of section `indexing`.
    given: vectors of section `embeddings`. growth: numbers of vectors. places: sources of images in addition to the
    sample.
    """

    points: int = 100_000
    embed: int = 100_000
    questions: int = 400
    images: int = 240
    given: int = 20_000
    growth: Sequence[int] = (10_000, 100_000, 1_000_000)
    places: Sequence[Path] = ()


@dataclass
class FigureCache:
    """Figures on disk, by name and by what they depend on, so that a stopped run can be resumed."""

    folder: Path
    depends_on: str
    reused: list[str] = field(default_factory=list)

    def __call__(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the cached figures of `name`, or measure and cache them."""
        path = self.folder / f"{name}-{sha256_hex(self.depends_on.encode())[:12]}.json"
        if path.exists():
            self.reused.append(name)
            cached: dict[str, Any] = json.loads(path.read_bytes())
            return cached
        value = measure()
        atomic_write(path, json.dumps(value))
        return value


def bench_index(sections: Iterable[str], sizes: Sizes, keep: Path | None) -> dict[str, Any]:
    """Measure the sections; return flat figures and the tables `compressions`, `growth` and `made_by`.

    keep: folder in which embeddings and figures are cached.
    """
    selected = [name for name in SECTIONS if name in set(sections)]
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", dir=keep) as name:
        folder = Path(name)
        data = _make_data(selected, sizes, keep or folder)
        cache = FigureCache(keep or folder, f"{data.key} {len(data.real)} {sizes.questions}")
        figures = data.description(sizes.points) if set(selected) - {"indexing"} else {}
        for section in selected:
            show_progress(section)
            began = time.monotonic()
            figures |= _measure(section, folder / section, sizes, data, cache)
            figures[f"{section}_section_s"] = time.monotonic() - began
        return {**figures, "kept_from_earlier_runs": cache.reused}


def _make_data(sections: Sequence[str], sizes: Sizes, cache: Path) -> BenchData:
    """Embed the images that the sections need, and enough to interpolate between if more vectors are needed."""
    pictures = joined([sample_pictures(), *(given_pictures(source) for source in sizes.places)])
    key = f"{pictures.content} {profile_identity(PROFILE).hash}"
    counts = {
        "embeddings": sizes.given,
        "queries": sizes.points,
        "compressions": sizes.points,
        "growth": max(sizes.growth),
    }
    needed = [counts[name] for name in sections if name in counts]
    if not needed:
        return BenchData(np.empty((0, 0), np.float32), pictures.count, pictures.name, key, None)
    largest = max(sizes.points, *needed)
    at_least = MIXED * pictures.count if largest > sizes.embed else 0
    real = embedded(pictures, max(min(sizes.embed, largest), at_least), cache)
    return BenchData(real, pictures.count, pictures.name, key, held_out_queries(pictures, sizes.questions, cache))


@dataclass(frozen=True)
class BenchData:
    """Embeddings from which vectors to index are made, and held-out queries."""

    real: Float32Array
    pictures: int
    name: str
    key: str
    queries: Embeddings | None

    def vectors(self, count: int) -> Vectors:
        """Return the first `count` vectors to index."""
        return Vectors(self.real, self.pictures, count)

    def description(self, points: int) -> dict[str, Any]:
        """Describe how the vectors of the tables were made, with their intrinsic dimension."""
        vectors = self.vectors(points)
        return {
            "points": points,
            "dimension": self.real.shape[1],
            "pictures": f"{self.pictures:,} of {self.name}",
            "made_by": vectors.made_by(),
            "intrinsic_dimension": two_nn_dimension(vectors.all()),
            "intrinsic_dimension_of_pictures": two_nn_dimension(self.real[: self.pictures]),
        }


def _measure(section: str, folder: Path, sizes: Sizes, data: BenchData, cache: FigureCache) -> dict[str, Any]:
    if section == "indexing":
        return cache(f"indexing-{sizes.images}", lambda: rates.indexing(folder, sizes.images))
    vectors, points = data.vectors(sizes.points), sizes.points
    if section == "embeddings":
        return cache(f"embeddings-{sizes.given}", lambda: rates.embeddings(folder, data.vectors(sizes.given)))
    assert data.queries is not None
    queries = data.queries
    if section == "queries":
        return cache(f"queries-{points}", lambda: tables.queries(folder, vectors, queries))
    if section == "compressions":
        rows = tables.compressions(folder, vectors, queries, cache)
        return {"compressions": rows, **tables.code_size(rows, vectors.real.shape[1])}
    growth = tables.growth(folder, [data.vectors(count) for count in sorted(sizes.growth)], queries, cache)
    return {"growth": growth, **tables.growth_ratio(growth)}
