"""Measure what compression costs, and find the cheapest search that loses no more than is allowed.

A query's truth is the k nearest by exact cosine, as the index itself computes it when it compares with every
original. recall@k = |answered ∩ truth| / k, averaged over queries; points as near as the k-th, to a millionth,
count as true, so that copies of one image do not look like losses. Search settings reach a target if the lower end of
the 95 % interval of recall does: a lucky sample is not enough.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.index.schema import (
    DEFAULT_COLLECTION,
    DEFAULT_DEPTH,
    RECALL_TARGET,
    SearchSettings,
    growth_since_verified,
)
from gmvaluator.index.store import QdrantStore
from gmvaluator.index.vectors import checked_vector
from gmvaluator.ports import Float32Array

OVERSAMPLINGS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0)
HNSW_EFS = (64, 128, 256, 512, 1024, 2048)
"""Search settings that are tried, in this order: each finds more and takes longer."""

TRUTH = SearchSettings()
"""Exact search looks at every original, whatever the settings."""

UNRESCORED = SearchSettings(oversampling=1.0, hnsw_ef=256, rescore=False)
_Recalls = np.ndarray[tuple[int], np.dtype[np.float64]]
_TIE = 1e-6
_RESAMPLES = 1000
_WARM_UP_QUERIES = 5


@dataclass(frozen=True, slots=True)
class Query:
    """One question. itself: the stored point it was taken from, which is no answer to it, or None if held out."""

    vector: Float32Array
    itself: TrainingImageId | None


def verify(
    location: str | Path,
    collection: str = DEFAULT_COLLECTION,
    queries: Sequence[Float32Array] = (),
    *,
    api_key: str | None = None,
    k: int = 50,
    sample: int = 200,
    seed: int = 0,
    target: float = RECALL_TARGET,
) -> dict[str, Any]:
    """Figures of the index, as a flat JSON object; the cheapest search settings that reach `target` are stored with it.

    Asks `sample` stored points for their neighbours, and the held-out `queries`, each (D,) float32 of unit norm; where
    there are both, each has to reach the target. Blocking; not for use inside an event loop. Raises PreconditionFailed
    if the index holds too few points, InvalidVector, MissingIndex, IndexUnavailable.
    """
    if k < 1 or sample < 0 or sample + len(queries) < 1 or not 0 < target <= 1:
        raise InvalidInput("k and the number of queries must be at least 1, and the target in (0, 1]")
    store = open_store(location, collection, api_key=api_key)
    try:
        asked = [*_stored(store, sample, seed), *_given(store, queries)]
        _require_points(store, k)
        figures = _measure(store, asked, k, target)
        _record(store, figures)
        figures.update(asyncio.run(_latency(location, collection, api_key, asked)))
    finally:
        store.close()
    return figures


def _require_points(store: QdrantStore, k: int) -> None:
    info = store.info()
    if info.points <= k:
        raise PreconditionFailed(
            f"collection {info.name!r} holds {info.points} points, recall at {k} needs more: index images first"
        )


def _stored(store: QdrantStore, sample: int, seed: int) -> list[Query]:
    """Points next to `sample` random ids; ids are hashes of the images' bytes, so these are random images."""
    random = np.random.default_rng(seed)
    places = sorted(uuid.UUID(bytes=random.bytes(16)) for _ in range(sample))
    points = {point.training_image_id: point for point in store.points_at(places)}
    return [Query(point.recall, one) for one, point in points.items()]


def _given(store: QdrantStore, queries: Sequence[Float32Array]) -> list[Query]:
    dimension = store.metadata().profile.recall_dim
    return [Query(checked_vector(query, dimension, f"query {i}"), None) for i, query in enumerate(queries)]


def _measure(store: QdrantStore, asked: Sequence[Query], k: int, target: float) -> dict[str, Any]:
    info, before = store.info(), store.metadata()
    trial = _Trial(store, asked, [_truth(store, query, k) for query in asked], k)
    settings, reached = trial.cheapest(target)
    figures = {
        "points": info.points,
        "quantised_points": info.indexed_points,
        "quantised_share": info.indexed_points / info.points,
        "quantisation": before.quantisation,
        "growth_since_verified": growth_since_verified(info),
        "queries": len(asked),
        "held_out_queries": sum(query.itself is None for query in asked),
        "k": k,
        **_with_interval(f"recall_at_{k}", trial.recalls(settings)),
        **_with_interval(f"recall_at_{k}_unrescored", trial.recalls(UNRESCORED)),
        "recall_target": target,
        "target_reached": reached,
        "oversampling": settings.oversampling,
        "hnsw_ef": settings.hnsw_ef,
    }
    for name, part in trial.parts(settings).items():
        figures.update(_with_interval(f"recall_at_{k}_{name}", part))
    return figures


@dataclass(frozen=True)
class _Trial:
    """Queries with their truths, asked again and again with other settings."""

    store: QdrantStore
    asked: Sequence[Query]
    truths: Sequence[set[TrainingImageId]]
    k: int
    _known: dict[SearchSettings, _Recalls] = field(default_factory=dict)

    def cheapest(self, target: float) -> tuple[SearchSettings, bool]:
        """The smallest oversampling that reaches the target with the longest list, then the shortest list that still
        does; the most thorough settings, and False, if nothing does."""
        for oversampling in OVERSAMPLINGS:
            if not self._reaches(SearchSettings(oversampling, HNSW_EFS[-1]), target):
                continue
            return next(
                (settings, True)
                for settings in (SearchSettings(oversampling, hnsw_ef) for hnsw_ef in HNSW_EFS)
                if self._reaches(settings, target)
            )
        return SearchSettings(OVERSAMPLINGS[-1], HNSW_EFS[-1]), False

    def _reaches(self, settings: SearchSettings, target: float) -> bool:
        parts = [self.recalls(settings), *self.parts(settings).values()]
        return all(_interval(part)[0] >= target for part in parts)

    def recalls(self, settings: SearchSettings) -> _Recalls:
        """recall@k of each query, (Q,) in [0, 1]."""
        if settings not in self._known:
            self._known[settings] = _recalls(self.store, self.asked, self.truths, self.k, settings)
        return self._known[settings]

    def parts(self, settings: SearchSettings) -> dict[str, _Recalls]:
        """The same of sampled and of held-out queries, where there are both."""
        held_out = np.array([query.itself is None for query in self.asked])
        if held_out.all() or not held_out.any():
            return {}
        recalls = self.recalls(settings)
        return {"sampled": recalls[~held_out], "held_out": recalls[held_out]}


def _truth(store: QdrantStore, query: Query, k: int) -> set[TrainingImageId]:
    """The k nearest of `query`, and whatever is as near as the last of them."""
    answers = [one for one in store.nearest(query.vector, 2 * k + 1, TRUTH, exact=True) if one[0] != query.itself]
    last = answers[min(k, len(answers)) - 1][1]
    return {one for one, similarity in answers if similarity >= last - _TIE}


def _recalls(
    store: QdrantStore,
    asked: Sequence[Query],
    truths: Sequence[set[TrainingImageId]],
    k: int,
    settings: SearchSettings,
) -> _Recalls:
    """recall@k of each query, (Q,) in [0, 1]; k answers are asked for, one more where the query finds itself."""
    found = []
    for query, truth in zip(asked, truths, strict=True):
        answers = store.nearest(query.vector, k + (query.itself is not None), settings)
        nearest = [one for one, _ in answers if one != query.itself][:k]
        found.append(len(truth.intersection(nearest)) / k)
    return np.array(found, dtype=np.float64)


def _with_interval(name: str, recalls: _Recalls) -> dict[str, float]:
    """Mean over queries and its 95 % interval."""
    low, high = _interval(recalls)
    return {name: float(recalls.mean()), f"{name}_low": low, f"{name}_high": high}


def _interval(recalls: _Recalls) -> tuple[float, float]:
    """The 95 % interval of the mean, by bootstrap over queries; the same for the same recalls."""
    random = np.random.default_rng(0)
    means = random.choice(recalls, (_RESAMPLES, len(recalls))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _record(store: QdrantStore, figures: dict[str, Any]) -> None:
    """Store the settings that were chosen, and the figures they were chosen by, in the collection's metadata."""
    settings = SearchSettings(oversampling=figures["oversampling"], hnsw_ef=figures["hnsw_ef"])
    measured = {**figures, "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    store.record(store.metadata().with_search(settings, measured))


async def _latency(
    location: str | Path, collection: str, api_key: str | None, asked: Sequence[Query]
) -> dict[str, float]:
    """Time of the service's own recall query, one at a time, through gRPC to the list of candidates."""
    search = open_search(location, collection, api_key=api_key)
    times_ms = []
    try:
        for query in [*asked[:_WARM_UP_QUERIES], *asked]:
            start = time.perf_counter()
            await search.recall(query.vector, DEFAULT_DEPTH)
            times_ms.append((time.perf_counter() - start) * 1e3)
    finally:
        await search.close()
    p50, p99 = np.percentile(times_ms[_WARM_UP_QUERIES:], (50, 99))
    return {"recall_p50_ms": float(p50), "recall_p99_ms": float(p99), "recall_depth": DEFAULT_DEPTH}
