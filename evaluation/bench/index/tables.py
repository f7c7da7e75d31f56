"""Sections over built collections: the service's queries, the table of quantisations, and the growth curve.

Recall is measured against exact search by numpy. The table compares each quantisation with FAISS IVFPQ of the same code
size, on the same vectors and queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.index.collection import Filled, K, filled, memory_use, show_progress
from evaluation.bench.index.vectors import Vectors, bench_profile, nearest, recalls
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT_QUANTISATION, SearchSettings, code_bytes
from gmvaluator.ports import Embeddings, Float32Array

LADDER = tuple(SearchSettings(oversampling=step, hnsw_ef=int(64 * step)) for step in (2.0, 4.0, 8.0, 16.0, 32.0))
"""Search settings in the order in which they are tried."""

TARGET = 0.99
"""recall@50 that search settings have to reach."""


def recall_and_latency(collection: Filled, rows: Float32Array, queries: Embeddings) -> dict[str, Any]:
    """Measure recall@50 before and after rescoring, and the latency of the two-stage query.

    Rescoring and latency are by the first settings of `LADDER` that reach `TARGET`, or the last ones.
    """
    _, cosines = nearest(rows, queries.recall, K)
    kth_cosines = cosines[:, -1]

    def recall(settings: SearchSettings) -> float:
        results = [collection.numbers(query, K, settings) for query in queries.recall]
        return float(recalls(results, rows, queries.recall, kth_cosines, K).mean())

    unrescored = recall(SearchSettings(oversampling=1.0, hnsw_ef=256, rescore=False))
    for settings in LADDER:
        rescored = recall(settings)
        if rescored >= TARGET:
            break
    collection.search_by(settings)
    first, second = collection.query_ms(queries)
    p50, p99 = np.percentile(second, (50, 99))
    return {
        "recall_at_50_unrescored": unrescored,
        "recall_at_50": rescored,
        "oversampling": settings.oversampling,
        "hnsw_ef": settings.hnsw_ef,
        "two_stage_p50_ms": float(p50),
        "two_stage_p99_ms": float(p99),
        "two_stage_first_p99_ms": float(np.percentile(first, 99)),
        "queries": len(queries.recall),
    }


FAISS_LADDER = ((16, 4), (32, 4), (64, 8), (128, 16), (256, 32))
"""Lists to visit and oversampling before rescoring, in the order in which they are tried."""

_TRAINING_VECTORS = 50_000

# FAISS's default, 256, takes minutes longer.
_MAX_POINTS_PER_CENTROID = 64
"""Training vectors per centroid of a sub-quantiser, at most."""


def faiss_ivfpq(rows: Float32Array, queries: Float32Array, code_bytes: int, target: float) -> dict[str, Any]:
    """Measure recall@50 before and after rescoring, query latency and build time of IVFPQ with 4 sqrt(N) lists.

    code_bytes: number of sub-quantisers of 8 bits. Queries are calls in this process, whereas those of the index go
    over gRPC. Rescoring reads the original vectors from memory.
    """
    import faiss

    lists = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // 39))
    quantiser = faiss.IndexFlatIP(rows.shape[1])
    index: Any = faiss.IndexIVFPQ(quantiser, rows.shape[1], lists, code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # a short run has few; no warning
    index.pq.cp.max_points_per_centroid = _MAX_POINTS_PER_CENTROID
    began = time.monotonic()
    index.train(rows[np.random.default_rng(0).permutation(len(rows))[:_TRAINING_VECTORS]])
    index.add(rows)
    build_s = time.monotonic() - began
    refined = faiss.IndexRefineFlat(index, faiss.swig_ptr(rows))
    kth_cosines = nearest(rows, queries, K)[1][:, -1]
    index.nprobe = min(FAISS_LADDER[-1][0], lists)
    unrescored = recalls(_results(index, queries), rows, queries, kth_cosines, K).mean()
    for probes, factor in FAISS_LADDER:
        index.nprobe, refined.k_factor = min(probes, lists), float(factor)
        rescored = recalls(_results(refined, queries), rows, queries, kth_cosines, K).mean()
        if rescored >= target:
            break
    p50, p99 = np.percentile(_times_ms(refined, queries), (50, 99))
    return {
        "faiss_recall_at_50_unrescored": float(unrescored),
        "faiss_recall_at_50": float(rescored),
        "faiss_probes": probes,
        "faiss_oversampling": factor,
        "faiss_p50_ms": float(p50),
        "faiss_p99_ms": float(p99),
        "faiss_build_s": build_s,
        "faiss_code_bytes_per_vector": index.code_size,
    }


def _results(index: Any, queries: Float32Array) -> list[list[int]]:
    _, numbers = index.search(queries, K)
    return [[int(number) for number in row if number >= 0] for row in numbers]


def _times_ms(index: Any, queries: Float32Array) -> list[float]:
    times = []
    for row in range(len(queries)):
        began = time.perf_counter()
        index.search(queries[row : row + 1], K)
        times.append(1e3 * (time.perf_counter() - began))
    return times


BOUND = "pq-x32"
"""The quantisation whose code size has a bound, of 4 D / 32 bytes."""

Row = dict[str, Any]
Cache = Callable[[str, Callable[[], Row]], Row]
"""Returns the cached row of a name, or measures and caches it."""


def queries(folder: Path, vectors: Vectors, queries: Embeddings) -> Row:
    """Measure the service's two-stage query on works of ten views, as in profile `lite`, and during the build.

    The quantisation is the default.
    """
    with filled(folder, vectors, bench_profile(), DEFAULT_QUANTISATION, queries) as collection:
        figures = recall_and_latency(collection, vectors.all(), queries)
        during = collection.during_build_ms
        return {
            **figures,
            "query_p99_during_build_ms": float(np.percentile(during, 99)) if during else None,
            "query_p50_during_build_ms": float(np.percentile(during, 50)) if during else None,
            "queries_during_build": len(during),
            "points": vectors.count,
            "quantisation": DEFAULT_QUANTISATION,
            "upsert_points_per_s": vectors.count / collection.upsert_s,
            "build_s": collection.build_s,
        }


def compressions(folder: Path, vectors: Vectors, queries: Embeddings, cache: Cache) -> list[Row]:
    """Measure each quantisation on works of one view, and FAISS with the same code size."""
    return [_row(folder, vectors, queries, cache, name) for name in CHOICES]


def _row(folder: Path, vectors: Vectors, queries: Embeddings, cache: Cache, name: str) -> Row:
    count, code = vectors.count, code_bytes(name, vectors.real.shape[1])
    show_progress(f"compression {name} of {count:,}")
    ours = cache(f"compression-{name}-{count}", lambda: _compressed(folder, vectors, queries, name))
    faiss = cache(f"faiss-{code}-{count}", lambda: faiss_ivfpq(vectors.all(), queries.recall, code, TARGET))
    return {"quantisation": name, **ours, **faiss}


def code_size(rows: list[Row], dimension: int) -> Row:
    """Return the size of a vector's code at x32, on disk and in memory, and its bound."""
    row = next(row for row in rows if row["quantisation"] == BOUND)
    return {"code_bytes_per_vector": row["code_bytes_per_vector"], "code_bytes_bound": 4 * dimension / 32}


def growth(folder: Path, sets: Sequence[Vectors], queries: Embeddings, cache: Cache) -> list[Row]:
    """Measure each number of works of one view, with the default quantisation."""
    return [_growth_row(folder, vectors, queries, cache) for vectors in sets]


def _growth_row(folder: Path, vectors: Vectors, queries: Embeddings, cache: Cache) -> Row:
    show_progress(f"growth: {vectors.count:,}")
    row = cache(f"growth-{vectors.count}", lambda: _compressed(folder, vectors, queries, DEFAULT_QUANTISATION))
    minutes = row["build_s"] / 60 * 1e6 / vectors.count
    return {"points": vectors.count, "made_by": vectors.made_by(), **row, "build_minutes_per_million": minutes}


def growth_ratio(rows: list[Row]) -> Row:
    """Return the p99 latency at a number of points divided by that at a tenth of them, for each such pair."""
    by_count = {row["points"]: row["two_stage_p99_ms"] for row in rows}
    pairs = [(count, count // 10) for count in sorted(by_count) if count // 10 in by_count]
    return {
        f"growth_p99_ratio_{_short(more)}_to_{_short(less)}": by_count[more] / by_count[less] for more, less in pairs
    }


def _short(count: int) -> str:
    for unit, name in ((1_000_000, "m"), (1_000, "k")):
        if count % unit == 0 and count >= unit:
            return f"{count // unit}{name}"
    return str(count)


def _compressed(folder: Path, vectors: Vectors, queries: Embeddings, quantisation: str) -> Row:
    whole = Embeddings(queries.recall, queries.recall[:, np.newaxis], None)
    with filled(folder, vectors, bench_profile(views=1), quantisation) as collection:
        return {**recall_and_latency(collection, vectors.all(), whole), **_costs(collection, vectors)}


def _costs(collection: Filled, vectors: Vectors) -> Row:
    info = collection.store.info()
    return {
        "quantised_share": info.indexed_points / info.points,
        "upsert_points_per_s": vectors.count / collection.upsert_s,
        "build_s": collection.build_s,
        **memory_use(collection.folder),
        "k": K,
    }
