"""Recall and latency of a built collection, against the truth by plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.bench.index.collection import Filled, K
from evaluation.bench.index.truth import nearest, recalls
from gmvaluator.index.schema import SearchSettings
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
