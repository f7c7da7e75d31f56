"""The sections over built collections: the service's queries, the table of compressions, the growth curve.

Recall and latency of a built collection, against the truth by plain numpy.

FAISS IVFPQ with as many bytes a vector, over the same vectors and questions: the yardstick of the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.index.collection import Filled, K, filled, tell, weights
from evaluation.bench.index.vectors import Vectors, bench_profile, nearest, recalls
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT_QUANTISATION, SearchSettings, code_bytes
from gmvaluator.ports import Embeddings, Float32Array

LADDER = tuple(SearchSettings(oversampling=step, hnsw_ef=int(64 * step)) for step in (2.0, 4.0, 8.0, 16.0, 32.0))
"""Search settings in the order in which they are tried."""

TARGET = 0.99


def recall_and_latency(one: Filled, rows: Float32Array, asked: Embeddings) -> dict[str, Any]:
    """recall@50 before rescoring and after it, by the first settings of `LADDER` that reach `TARGET` (else the last),
    and the two-stage query's times by these."""
    _, cosines = nearest(rows, asked.recall, K)
    least = cosines[:, -1]

    def recall(settings: SearchSettings) -> float:
        answers = [one.numbers(query, K, settings) for query in asked.recall]
        return float(recalls(answers, rows, asked.recall, least, K).mean())

    unrescored = recall(SearchSettings(oversampling=1.0, hnsw_ef=256, rescore=False))
    for settings in LADDER:
        rescored = recall(settings)
        if rescored >= TARGET:
            break
    one.search_by(settings)
    first, again = one.query_ms(asked)
    p50, p99 = np.percentile(again, (50, 99))
    return {
        "recall_at_50_unrescored": unrescored,
        "recall_at_50": rescored,
        "oversampling": settings.oversampling,
        "hnsw_ef": settings.hnsw_ef,
        "two_stage_p50_ms": float(p50),
        "two_stage_p99_ms": float(p99),
        "two_stage_first_p99_ms": float(np.percentile(first, 99)),
        "queries": len(asked.recall),
    }


FAISS_LADDER = ((16, 4), (32, 4), (64, 8), (128, 16), (256, 32))
"""Lists visited, and candidates by code per answer that are rescored with the originals, in the order tried."""

_TRAINED_ON = 50_000
_OF_A_CENTROID = 64
"""Vectors that a sub-quantiser's centroid is trained on at most; four times as many, FAISS's own, take minutes more."""


def faiss_ivfpq(rows: Float32Array, queries: Float32Array, code_bytes: int, target: float) -> dict[str, Any]:
    """recall@50 before and after rescoring, latency of a query alone, and build time, of IVFPQ of 4 sqrt(N) lists.

    `code_bytes` sub-quantisers of 8 bits. Latencies are of calls within this process, where the index's own go over
    gRPC. The originals that rescoring reads are in memory.
    """
    import faiss

    lists = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // 39))
    quantiser = faiss.IndexFlatIP(rows.shape[1])
    index: Any = faiss.IndexIVFPQ(quantiser, rows.shape[1], lists, code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # as few as a short run has, unwarned
    index.pq.cp.max_points_per_centroid = _OF_A_CENTROID
    began = time.monotonic()
    index.train(rows[np.random.default_rng(0).permutation(len(rows))[:_TRAINED_ON]])
    index.add(rows)
    build_s = time.monotonic() - began
    refined = faiss.IndexRefineFlat(index, faiss.swig_ptr(rows))
    least = nearest(rows, queries, K)[1][:, -1]
    index.nprobe = min(FAISS_LADDER[-1][0], lists)
    unrescored = recalls(_found(index, queries), rows, queries, least, K).mean()
    for probes, factor in FAISS_LADDER:
        index.nprobe, refined.k_factor = min(probes, lists), float(factor)
        rescored = recalls(_found(refined, queries), rows, queries, least, K).mean()
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


def _found(index: Any, queries: Float32Array) -> list[list[int]]:
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
"""The compression that the bound of bytes a code is for: 4 D / 32."""

Row = dict[str, Any]
Kept = Callable[[str, Callable[[], Row]], Row]
"""Answers what was measured before under a name, else measures and keeps it."""


def queries(folder: Path, vectors: Vectors, asked: Embeddings) -> Row:
    """The service's two-stage query over works of ten views, as profile `lite` has them, and while the index is built.

    Compression is the default. Times of queries during the build are of the same two-stage query.
    """
    with filled(folder, vectors, bench_profile(), DEFAULT_QUANTISATION, asked) as one:
        found = recall_and_latency(one, vectors.all(), asked)
        during = one.during_build_ms
        return {
            **found,
            "query_p99_during_build_ms": float(np.percentile(during, 99)) if during else None,
            "query_p50_during_build_ms": float(np.percentile(during, 50)) if during else None,
            "queries_during_build": len(during),
            "points": vectors.count,
            "quantisation": DEFAULT_QUANTISATION,
            "upsert_points_per_s": vectors.count / one.upsert_s,
            "build_s": one.build_s,
        }


def compressions(folder: Path, vectors: Vectors, asked: Embeddings, keep: Kept) -> list[Row]:
    """A row for each way to compress, works of one view, and FAISS at the same bytes beside it."""
    return [_row(folder, vectors, asked, keep, name) for name in CHOICES]


def _row(folder: Path, vectors: Vectors, asked: Embeddings, keep: Kept, name: str) -> Row:
    count, code = vectors.count, code_bytes(name, vectors.real.shape[1])
    tell(f"compression {name} of {count:,}")
    ours = keep(f"compression-{name}-{count}", lambda: _compressed(folder, vectors, asked, name))
    beside = keep(f"faiss-{code}-{count}", lambda: faiss_ivfpq(vectors.all(), asked.recall, code, TARGET))
    return {"quantisation": name, **ours, **beside}


def code_size(rows: list[Row], dimension: int) -> Row:
    """The code of a vector at x32, as it lies on disk and in memory, and what it may take."""
    row = next(one for one in rows if one["quantisation"] == BOUND)
    return {"code_bytes_per_vector": row["code_bytes_per_vector"], "code_bytes_bound": 4 * dimension / 32}


def growth(folder: Path, sets: Sequence[Vectors], asked: Embeddings, keep: Kept) -> list[Row]:
    """A row for each number of works of one view, at the default compression."""
    return [_grown(folder, vectors, asked, keep) for vectors in sets]


def _grown(folder: Path, vectors: Vectors, asked: Embeddings, keep: Kept) -> Row:
    tell(f"growth: {vectors.count:,}")
    row = keep(f"growth-{vectors.count}", lambda: _compressed(folder, vectors, asked, DEFAULT_QUANTISATION))
    minutes = row["build_s"] / 60 * 1e6 / vectors.count
    return {"points": vectors.count, "made_by": vectors.made_by(), **row, "build_minutes_per_million": minutes}


def growth_ratio(rows: list[Row]) -> Row:
    """p99 at the most points against p99 at a tenth of them, named by both."""
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


def _compressed(folder: Path, vectors: Vectors, asked: Embeddings, quantisation: str) -> Row:
    whole = Embeddings(asked.recall, asked.recall[:, np.newaxis], None)
    with filled(folder, vectors, bench_profile(views=1), quantisation) as one:
        return {**recall_and_latency(one, vectors.all(), whole), **_costs(one, vectors)}


def _costs(one: Filled, vectors: Vectors) -> Row:
    info = one.store.info()
    return {
        "quantised_share": info.indexed_points / info.points,
        "upsert_points_per_s": vectors.count / one.upsert_s,
        "build_s": one.build_s,
        **weights(one.folder),
        "k": K,
    }
