"""Observations of the real index: for every query image, the recalled and re-ranked works with their distances."""

from __future__ import annotations

import asyncio
import csv
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evaluation.images.sample import Work, read_foreign, read_works
from evaluation.known_source.queries import COPY, RECONSTRUCTION, Plan, Query, make_queries
from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.commands.processes import run_command
from gmvaluator.errors import InvalidInput, MissingIndex, PreconditionFailed
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.index.schema import DEFAULT_COLLECTION, KEY_GROUP, duplicate_group, require_profile
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.local_features.sightings import (
    NOTHING_SEEN,
    WINDOW_DEPTH,
    SeenParts,
    examine,
    to_examine,
    window_sightings,
)
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Candidate, CandidateSearch, Embeddings, Models, Prepared
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.weights import distance_millionths
from gmvaluator.windows import WINDOW_MASKS

DEPTH = 200
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The index's answer for one image, as the service would see it.

    recalled: ids, most similar first, with `recall_millionths` as 1 - cosine of the recall vectors. reranked: the
    same ids, nearest first, with `distance_millionths`. quality: in [0, 1]. groups: for each re-ranked work the first
    of its near-duplicates, or the work itself; empty where groups were not queried.
    """

    recalled: tuple[TrainingImageId, ...]
    recall_millionths: tuple[int, ...]
    reranked: tuple[TrainingImageId, ...]
    distance_millionths: tuple[int, ...]
    quality: float
    groups: tuple[TrainingImageId, ...] = ()
    seen: SeenParts = NOTHING_SEEN

    def candidates(self) -> list[ScoredCandidate]:
        """Return the re-ranked works in the form that a policy values."""
        return [
            ScoredCandidate(work, distance, 0, group, self.seen.sighting(work))
            for work, distance, group in zip(
                self.reranked, self.distance_millionths, self.groups or self.reranked, strict=True
            )
        ]


def embed(models: Models, queries: Sequence[Query]) -> Embeddings:
    """Embed all images in batches, without their windows, with progress on stderr."""
    return embed_prepared(models, [models.prepare(query.image, parts=False) for query in queries])


def embed_prepared(models: Models, inputs: Sequence[Prepared]) -> Embeddings:
    """Embed prepared images as `embed` does."""
    parts = []
    for start in range(0, len(inputs), _CHUNK):
        parts.append(models.embed(inputs[start : start + _CHUNK]))
        print(f"embedded {start + len(parts[-1].recall):,}/{len(inputs):,}", end="\r", file=sys.stderr)  # noqa: T201
    print(file=sys.stderr)  # noqa: T201
    return Embeddings(
        np.concatenate([part.recall for part in parts]),
        np.concatenate([part.perceptual for part in parts]),
        np.concatenate([part.quality for part in parts if part.quality is not None]),
        [windows for part in parts for windows in part.windows or ()] or None,
    )


def search_all(
    location: str | Path, models: Models, queries: Sequence[Query], collection: str = DEFAULT_COLLECTION
) -> list[Retrieval]:
    """Recall and re-rank for each image.

    Raises MissingIndex, or ProfileMismatch if the index belongs to another profile, before anything is embedded.
    """
    return asyncio.run(_search_all(location, models, queries, collection))


async def _search_all(
    location: str | Path, models: Models, queries: Sequence[Query], collection: str
) -> list[Retrieval]:
    search = open_search(location, collection, api_key=qdrant_api_key(), payload_keys=(KEY_GROUP,))
    try:
        require_profile(await search.info(), models.identity)
        inputs = [models.prepare(query.image) for query in queries]
        embeddings = embed_prepared(models, inputs)  # minutes, and nothing else waits for this loop
        return [await _retrieve(search, embeddings, row, prepared) for row, prepared in enumerate(inputs)]
    finally:
        await search.close()


async def _retrieve(search: CandidateSearch, embeddings: Embeddings, row: int, prepared: Prepared) -> Retrieval:
    """Recall, re-rank, and look for works in the parts of one image, as the service does."""
    windows: Sequence[Sequence[Candidate]] = ()
    if embeddings.windows is None or prepared.local is None:
        recalled = await search.recall(embeddings.recall[row], DEPTH)
    else:
        recalled, windows = await search.recall_with_windows(
            embeddings.recall[row], DEPTH, embeddings.windows[row], WINDOW_DEPTH
        )
    candidates = {candidate.training_image_id: candidate for candidates in windows for candidate in candidates}
    candidates |= {candidate.training_image_id: candidate for candidate in recalled}
    reranked = await search.rerank(embeddings.perceptual[row], list(candidates), len(candidates))
    seen = NOTHING_SEEN
    if windows and prepared.local is not None:
        sightings = window_sightings(windows, WINDOW_MASKS)
        works = to_examine((neighbour.training_image_id for neighbour in reranked), sightings)
        seen = examine(prepared.local, await search.local_features(works), sightings)
    groups = {work: duplicate_group(candidate.payload) for work, candidate in candidates.items()}
    assert embeddings.quality is not None
    return Retrieval(
        tuple(candidate.training_image_id for candidate in recalled),
        tuple(distance_millionths(1 - candidate.clip_similarity) for candidate in recalled),
        tuple(neighbour.training_image_id for neighbour in reranked),
        tuple(distance_millionths(neighbour.perceptual_distance) for neighbour in reranked),
        float(embeddings.quality[row]),
        tuple(groups[neighbour.training_image_id] or neighbour.training_image_id for neighbour in reranked),
        seen,
    )


SHORT_EACH = 20
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One query, its true sources as ids with shares, and the index's answer."""

    query: Query
    sources: dict[TrainingImageId, float]
    retrieval: Retrieval

    @property
    def single(self) -> bool:
        """Whether one recipe made the image from one work; copies and reconstructions are counted separately."""
        return len(self.sources) == 1 and self.query.kind not in (COPY, RECONSTRUCTION)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each source by perceptual distance, 0 for the nearest; a large number if it was not recalled."""
        return _ranks(self.sources, self.retrieval.reranked)

    @cached_property
    def recall_ranks(self) -> tuple[int, ...]:
        """Rank of each source by recall similarity."""
        return _ranks(self.sources, self.retrieval.recalled)


def _ranks(sources: dict[TrainingImageId, float], ids: Sequence[TrainingImageId]) -> tuple[int, ...]:
    places = {id_: place for place, id_ in enumerate(ids)}
    return tuple(places.get(source, 1_000_000) for source in sources)


def works_of(short: bool) -> dict[str, Work]:
    """Return the sample's works by key; every `SHORT_EACH`th of them for a short run."""
    works = read_works(sample_folder("openclipart"))
    return dict(list(works.items())[:: SHORT_EACH if short else 1])


def require_sample(location: str | Path, short: bool = False) -> None:
    """Raise PreconditionFailed unless the index holds the works that the benchmark changes and looks for.

    It takes a second, while the benchmark itself would fail only after minutes of embedding.
    """
    if isinstance(location, Path) and not location.is_dir():
        raise MissingIndex(f"there is no index in {location.parent}: leave --data out, and one is made")
    ids = [training_image_id(work.sha256) for work in works_of(short).values()]
    store = open_store(location, DEFAULT_COLLECTION, api_key=qdrant_api_key())
    try:
        missing = len(set(ids) - store.existing(ids))
    finally:
        store.close()
    if missing:
        raise PreconditionFailed(
            f"the index {location} lacks {missing:,} of the {len(ids):,} works of the sample, whose sources this "
            "benchmark knows: leave --data out, and an index of them is made"
        )


def require_foreign(folder: Path) -> None:
    """Raise InvalidInput unless the folder holds images without a source for tests, unchanged since they were made."""
    try:
        rows = [row for row in read_foreign(folder) if row.split == "test"]
        changed = [row.file_name for row in rows if sha256_hex((folder / row.file_name).read_bytes()) != row.sha256]
    except (OSError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise InvalidInput(f"{folder} is no folder made by evaluation.images.make_foreign_set: {error}") from error
    if changed or not rows:
        fault = f"{changed[0]} is not what its manifest.csv says" if changed else "it has no images for tests"
        raise InvalidInput(f"{folder}: {fault}; make it again with evaluation.images.make_foreign_set")


def index_sample(data: Path, profile: str, short: bool = False) -> Path:
    """Index the sample, or the part of it for a short run, into `data` by the CLI; return the index's location."""
    source = _part(data / "part") if short else sample_folder("openclipart")
    run_command("index", "add", str(source), "--data", str(data), "--profile", profile)
    return data / "index"


def _part(folder: Path) -> Path:
    """Return a folder that holds a short run's works."""
    for work in works_of(short=True).values():
        copy = folder / work.file_name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample_folder("openclipart") / work.file_name, copy)
    return folder


def observe(
    plan: Plan, location: str | Path, profile: str, short: bool = False, foreign: Path | None = None
) -> list[Observation]:
    """Make the plan's images from the sample's works and query the index with each.

    foreign: folder of images without a source; None for the shipped ones. Raises ProfileMismatch, MissingIndex.
    """
    works = works_of(short)
    queries = make_queries(plan, list(works.values()), sample_folder("openclipart"), foreign=foreign)
    ids = {key: training_image_id(work.sha256) for key, work in works.items()}
    return observed(queries, ids, search_all(location, load_models(profile), queries))


def observed(
    queries: Sequence[Query], ids: Mapping[str, TrainingImageId], retrievals: Sequence[Retrieval]
) -> list[Observation]:
    """Return the observations of queries and their answers. ids: of the works, by the keys that the queries name."""
    return [
        Observation(query, {ids[key]: weight for key, weight in query.sources}, answer)
        for query, answer in zip(queries, retrievals, strict=True)
    ]
