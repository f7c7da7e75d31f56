"""FAISS IVFPQ with as many bytes a vector, over the same vectors and questions: the yardstick of the table."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from evaluation.bench.index.collection import K
from evaluation.bench.index.truth import nearest, recalls
from gmvaluator.ports import Float32Array

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
