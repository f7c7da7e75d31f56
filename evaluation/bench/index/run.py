"""All sections of `gmvaluator bench index`, or those that were asked for; what was measured before is kept."""

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
from evaluation.bench.index.collection import tell
from evaluation.bench.index.images import PROFILE, embedded, given_pictures, joined, questions, sample_pictures
from evaluation.bench.index.vectors import MIXED, Vectors, two_nn_dimension
from gmvaluator.files import atomic_write
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Embeddings, Float32Array

SECTIONS = ("indexing", "embeddings", "queries", "compressions", "growth")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; the defaults are the complete measurement.

    points: vectors of the sections `queries` and `compressions`. embed: of these, embeddings of real images; the rest
    is interpolated. images: works a round of section `indexing`. given: vectors of section `embeddings`.
    growth: numbers of vectors. places: images beside the sample's.
    """

    points: int = 100_000
    embed: int = 100_000
    questions: int = 400
    images: int = 240
    given: int = 20_000
    growth: Sequence[int] = (10_000, 100_000, 1_000_000)
    places: Sequence[Path] = ()


@dataclass
class Kept:
    """Figures in a folder, by name and by what they depend on: a run that was stopped goes on where it was."""

    folder: Path
    depends_on: str
    reused: list[str] = field(default_factory=list)

    def __call__(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured before under `name`; else measure it now, and keep it."""
        path = self.folder / f"{name}-{sha256_hex(self.depends_on.encode())[:12]}.json"
        if path.exists():
            self.reused.append(name)
            kept: dict[str, Any] = json.loads(path.read_bytes())
            return kept
        value = measure()
        atomic_write(path, json.dumps(value))
        return value


def bench_index(sections: Iterable[str], sizes: Sizes, keep: Path | None) -> dict[str, Any]:
    """Figures, flat, and the tables `compressions`, `growth` and `made_by`. keep: folder of embeddings and figures."""
    wanted = [one for one in SECTIONS if one in set(sections)]
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", dir=keep) as name:
        folder = Path(name)
        made = _made(wanted, sizes, keep or folder)
        kept = Kept(keep or folder, f"{made.key} {len(made.real)} {sizes.questions}")
        figures = made.described(sizes.points) if set(wanted) - {"indexing"} else {}
        for section in wanted:
            tell(section)
            began = time.monotonic()
            figures |= _measured(section, folder / section, sizes, made, kept)
            figures[f"{section}_section_s"] = time.monotonic() - began
        return {**figures, "kept_from_earlier_runs": kept.reused}


def _made(sections: Sequence[str], sizes: Sizes, place: Path) -> Made:
    """The vectors that the sections need; enough are embedded to interpolate between, where that has to be."""
    pictures = joined([sample_pictures(), *(given_pictures(one) for one in sizes.places)])
    key = f"{pictures.content} {profile_identity(PROFILE).hash}"
    counts = {
        "embeddings": sizes.given,
        "queries": sizes.points,
        "compressions": sizes.points,
        "growth": max(sizes.growth),
    }
    asked_for = [counts[one] for one in sections if one in counts]
    if not asked_for:
        return Made(np.empty((0, 0), np.float32), pictures.count, pictures.name, key, None)
    most = max(sizes.points, *asked_for)
    least = MIXED * pictures.count if most > sizes.embed else 0
    real = embedded(pictures, max(min(sizes.embed, most), least), place)
    return Made(real, pictures.count, pictures.name, key, questions(pictures, sizes.questions, place))


@dataclass(frozen=True)
class Made:
    """Vectors to index, and questions to ask."""

    real: Float32Array
    pictures: int
    name: str
    key: str
    asked: Embeddings | None

    def vectors(self, count: int) -> Vectors:
        return Vectors(self.real, self.pictures, count)

    def described(self, points: int) -> dict[str, Any]:
        """What the vectors of the tables are made of, and in how many directions they spread."""
        vectors = self.vectors(points)
        return {
            "points": points,
            "dimension": self.real.shape[1],
            "pictures": f"{self.pictures:,} of {self.name}",
            "made_by": vectors.made_by(),
            "intrinsic_dimension": two_nn_dimension(vectors.all()),
            "intrinsic_dimension_of_pictures": two_nn_dimension(self.real[: self.pictures]),
        }


def _measured(section: str, folder: Path, sizes: Sizes, made: Made, kept: Kept) -> dict[str, Any]:
    if section == "indexing":
        return kept(f"indexing-{sizes.images}", lambda: rates.indexing(folder, sizes.images))
    vectors, points = made.vectors(sizes.points), sizes.points
    if section == "embeddings":
        return kept(f"embeddings-{sizes.given}", lambda: rates.embeddings(folder, made.vectors(sizes.given)))
    assert made.asked is not None
    asked = made.asked
    if section == "queries":
        return kept(f"queries-{points}", lambda: tables.queries(folder, vectors, asked))
    if section == "compressions":
        rows = tables.compressions(folder, vectors, asked, kept)
        return {"compressions": rows, **tables.code_size(rows, vectors.real.shape[1])}
    grown = tables.growth(folder, [made.vectors(count) for count in sorted(sizes.growth)], asked, kept)
    return {"growth": grown, **tables.growth_ratio(grown)}
