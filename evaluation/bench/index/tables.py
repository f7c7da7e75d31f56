"""The sections over built collections: the service's queries, the table of compressions, the growth curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.index.asking import TARGET, recall_and_latency
from evaluation.bench.index.collection import Filled, K, filled, tell
from evaluation.bench.index.faiss_beside import faiss_ivfpq
from evaluation.bench.index.vectors import Vectors, bench_profile
from evaluation.bench.index.weighing import weights
from gmvaluator.index.schema import CHOICES, DEFAULT, code_bytes
from gmvaluator.ports import Embeddings

BOUND = "pq-x32"
"""The compression that the bound of bytes a code is for: 4 D / 32."""

Row = dict[str, Any]
Kept = Callable[[str, Callable[[], Row]], Row]
"""Answers what was measured before under a name, else measures and keeps it."""


def queries(folder: Path, vectors: Vectors, asked: Embeddings) -> Row:
    """The service's two-stage query over works of ten views, as profile `lite` has them, and while the index is built.

    Compression is the default. Times of queries during the build are of the same two-stage query.
    """
    with filled(folder, vectors, bench_profile(), DEFAULT, asked) as one:
        found = recall_and_latency(one, vectors.all(), asked)
        during = one.during_build_ms
        return {
            **found,
            "query_p99_during_build_ms": float(np.percentile(during, 99)) if during else None,
            "query_p50_during_build_ms": float(np.percentile(during, 50)) if during else None,
            "queries_during_build": len(during),
            "points": vectors.count,
            "quantisation": DEFAULT,
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
    row = keep(f"growth-{vectors.count}", lambda: _compressed(folder, vectors, asked, DEFAULT))
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
