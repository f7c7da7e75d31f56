"""Measurement of recall, and choice of the cheapest search settings that reach a target recall.

The ground truth of a query is its k nearest neighbours by exact cosine, which the index computes by comparing with
every original vector. recall@k = |result ∩ ground truth| / k, averaged over the queries. Points whose similarity is
within 1e-6 of the k-th belong to the ground truth, so that exact duplicates do not count as losses. Search settings
reach a target if the lower end of the 95 % interval of recall does, so that a lucky sample is not enough.

A search under a filter may reach fewer of its neighbours through the graph than one of the whole collection. With
`data_sets` each query is therefore also measured under the filter that the service sends for a generator that was
trained on them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.checksums import CHECKSUM
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
"""Search settings to try, in this order: recall and latency increase."""

_EXACT = SearchSettings()
"""Settings of an exact search, which ignores them."""

UNRESCORED = SearchSettings(oversampling=1.0, hnsw_ef=256, rescore=False)
"""Settings of a search by code alone, which shows what quantisation costs before rescoring."""

_Recalls = np.ndarray[tuple[int], np.dtype[np.float64]]
_TIE = 1e-6
_RESAMPLES = 1000
_WARM_UP_QUERIES = 5


@dataclass(frozen=True, slots=True)
class Query:
    """A query of the measurement.

    vector: (D,) float32, unit norm. source: the stored point that it was taken from, which is excluded from its
    results, or None for a held-out query. has_checksum: its stored vectors have a checksum. data_sets: restrict the
    query to their images; none: the whole collection.
    """

    vector: Float32Array
    source: TrainingImageId | None
    has_checksum: bool = True
    data_sets: tuple[str, ...] = ()


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
    data_sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure recall, store the cheapest search settings that reach `target`, and return the figures as a flat dict.

    The queries are `sample` stored points, drawn with `seed`, and the held-out `queries`, each (D,) float32 of unit
    norm; if there are both, each kind has to reach the target. data_sets: each query is measured under their filter
    too, and has to reach the target there. Blocking: do not call it inside an event loop. Raises InvalidInput,
    InvalidVector, MissingIndex, IndexUnavailable, PreconditionFailed if the index, or these data sets in it, hold k
    points or fewer.
    """
    if k < 1 or sample < 0 or sample + len(queries) < 1 or not 0 < target <= 1:
        raise InvalidInput("k and the number of queries must be at least 1, and the target in (0, 1]")
    store = open_store(location, collection, api_key=api_key)
    try:
        plain = [*_sampled(store, sample, seed), *_held_out(store, queries)]
        filtered = [replace(query, data_sets=tuple(data_sets)) for query in plain] if data_sets else []
        _require_points(store, k, data_sets)
        figures = _measure(store, [*plain, *filtered], k, target)
        if data_sets:
            figures.update({"data_sets": list(data_sets), "filtered_points": store.count(data_sets)})
        _record(store, figures)
        figures.update(asyncio.run(_latency(location, collection, api_key, plain)))
        if filtered:
            latency = asyncio.run(_latency(location, collection, api_key, filtered))
            figures.update({f"filtered_{name}": value for name, value in latency.items()})
    finally:
        store.close()
    return figures


def _require_points(store: QdrantStore, k: int, data_sets: Sequence[str]) -> None:
    info = store.info()
    if data_sets and (selected := store.count(data_sets)) <= k:
        raise PreconditionFailed(
            f"data sets {', '.join(data_sets)} hold {selected} points of collection {info.name!r}, recall at {k} needs "
            "more: check their names, or give a smaller --k"
        )
    if info.points <= k:
        raise PreconditionFailed(
            f"collection {info.name!r} holds {info.points} points, recall at {k} needs more: index more images, or "
            "give a smaller --k"
        )


def _sampled(store: QdrantStore, sample: int, seed: int) -> list[Query]:
    """Return up to `sample` distinct stored points, chosen at random."""
    random = np.random.default_rng(seed)
    # Ids are hashes of the images' bytes, so the point after a random id is a random image.
    ids = sorted(uuid.UUID(bytes=random.bytes(16)) for _ in range(sample))
    points = {point.training_image_id: point for point in store.points_from(ids)}
    return [Query(point.recall, image_id, CHECKSUM in point.payload) for image_id, point in points.items()]


def _held_out(store: QdrantStore, queries: Sequence[Float32Array]) -> list[Query]:
    dimension = store.metadata().profile.recall_dim
    return [Query(checked_vector(query, dimension, f"query {i}"), None) for i, query in enumerate(queries)]


def _measure(store: QdrantStore, queries: Sequence[Query], k: int, target: float) -> dict[str, Any]:
    info, before = store.info(), store.metadata()
    plain = [query for query in queries if not query.data_sets]
    trial = _Trial(store, queries, [_ground_truth(store, query, k) for query in queries], k)
    settings, reached = trial.cheapest(target)
    figures = {
        "points": info.points,
        "quantised_points": info.indexed_points,
        "quantised_share": info.indexed_points / info.points,
        "quantisation": before.quantisation,
        "growth_since_verified": growth_since_verified(info),
        "queries": len(plain),
        "held_out_queries": sum(query.source is None for query in plain),
        "sampled_without_checksum": sum(not query.has_checksum for query in plain),
        "k": k,
        **_with_interval(f"recall_at_{k}", trial.whole(settings)),
        **_with_interval(f"recall_at_{k}_unrescored", trial.whole(UNRESCORED)),
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
    """Queries with their ground truth, whose recall is measured under several search settings."""

    store: QdrantStore
    queries: Sequence[Query]
    ground_truths: Sequence[set[TrainingImageId]]
    k: int
    _measured: dict[SearchSettings, _Recalls] = field(default_factory=dict)

    def cheapest(self, target: float) -> tuple[SearchSettings, bool]:
        """Return the cheapest settings that reach `target`, and whether any do; if none, the most thorough ones.

        The search first takes the smallest oversampling that reaches the target with the largest hnsw_ef, then the
        smallest hnsw_ef that still reaches it.
        """
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
        parts = [self.whole(settings), *self.parts(settings).values()]
        return all(_interval(part)[0] >= target for part in parts)

    def recalls(self, settings: SearchSettings) -> _Recalls:
        """Return recall@k of each query, (Q,) in [0, 1]; measured once per settings."""
        if settings not in self._measured:
            self._measured[settings] = _recalls(self.store, self.queries, self.ground_truths, self.k, settings)
        return self._measured[settings]

    def whole(self, settings: SearchSettings) -> _Recalls:
        """Return recall@k of the queries of the whole collection."""
        return self.recalls(settings)[~self._are_filtered]

    def parts(self, settings: SearchSettings) -> dict[str, _Recalls]:
        """Return recall@k by kind of query: sampled and held out, if there are both, and filtered, if there are any."""
        recalls, filtered = self.recalls(settings), self._are_filtered
        held_out = np.array([query.source is None for query in self.queries])
        parts = {"sampled": recalls[~held_out & ~filtered], "held_out": recalls[held_out & ~filtered]}
        if not all(len(part) for part in parts.values()):
            parts = {}
        return {**parts, "filtered": recalls[filtered]} if filtered.any() else parts

    @property
    def _are_filtered(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([bool(query.data_sets) for query in self.queries])


def _ground_truth(store: QdrantStore, query: Query, k: int) -> set[TrainingImageId]:
    """Return the exact k nearest neighbours of `query`, and those that tie with the k-th."""
    nearest = store.nearest(query.vector, 2 * k + 1, _EXACT, query.data_sets, exact=True)
    others = [(image_id, similarity) for image_id, similarity in nearest if image_id != query.source]
    kth_similarity = others[min(k, len(others)) - 1][1]
    return {image_id for image_id, similarity in others if similarity >= kth_similarity - _TIE}


def _recalls(
    store: QdrantStore,
    queries: Sequence[Query],
    ground_truths: Sequence[set[TrainingImageId]],
    k: int,
    settings: SearchSettings,
) -> _Recalls:
    """Return recall@k of each query under `settings`, (Q,) in [0, 1]."""
    recalls = []
    for query, ground_truth in zip(queries, ground_truths, strict=True):
        # A stored point finds itself first, so one more result is needed.
        results = store.nearest(query.vector, k + (query.source is not None), settings, query.data_sets)
        nearest = [image_id for image_id, _ in results if image_id != query.source][:k]
        recalls.append(len(ground_truth.intersection(nearest)) / k)
    return np.array(recalls, dtype=np.float64)


def _with_interval(name: str, recalls: _Recalls) -> dict[str, float]:
    """Return the mean over queries and its 95 % interval, as `name`, `name_low` and `name_high`."""
    low, high = _interval(recalls)
    return {name: float(recalls.mean()), f"{name}_low": low, f"{name}_high": high}


def _interval(recalls: _Recalls) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of the mean over queries; deterministic."""
    random = np.random.default_rng(0)
    means = random.choice(recalls, (_RESAMPLES, len(recalls))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _record(store: QdrantStore, figures: dict[str, Any]) -> None:
    """Store the chosen settings and the measured figures in the collection's metadata."""
    settings = SearchSettings(oversampling=figures["oversampling"], hnsw_ef=figures["hnsw_ef"])
    measured = {**figures, "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    store.record(store.metadata().with_search(settings, measured))


async def _latency(
    location: str | Path, collection: str, api_key: str | None, queries: Sequence[Query]
) -> dict[str, float]:
    """Measure the latency of `QdrantSearch.recall`, as the attributor calls it, with one query at a time."""
    search = open_search(location, collection, api_key=api_key)
    times_ms = []
    try:
        for query in [*queries[:_WARM_UP_QUERIES], *queries]:
            start = time.perf_counter()
            await search.recall(query.vector, DEFAULT_DEPTH, query.data_sets or None)
            times_ms.append((time.perf_counter() - start) * 1e3)
    finally:
        await search.close()
    p50, p99 = np.percentile(times_ms[_WARM_UP_QUERIES:], (50, 99))
    return {"recall_p50_ms": float(p50), "recall_p99_ms": float(p99), "recall_depth": DEFAULT_DEPTH}
