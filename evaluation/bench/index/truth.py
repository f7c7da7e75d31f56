"""Exact neighbours by plain numpy: what the index's answers are held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gmvaluator.ports import Float32Array

TIE = 1e-6
_BLOCK = 65_536
_QUERIES = 512
Numbers = npt.NDArray[np.int64]


def nearest(rows: Float32Array, queries: Float32Array, k: int) -> tuple[Numbers, Float32Array]:
    """Numbers and cosines, (Q, k), of the k rows most similar to each query, most similar first."""
    found = [_nearest(rows, queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def _nearest(rows: Float32Array, queries: Float32Array, k: int) -> tuple[Numbers, Float32Array]:
    numbers = np.empty((len(queries), 0), np.int64)
    cosines = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = queries @ rows[start : start + _BLOCK].T
        most = np.argpartition(-block, min(k, block.shape[1]) - 1, axis=1)[:, :k]
        numbers = np.concatenate([numbers, most + start], axis=1)
        cosines = np.concatenate([cosines, np.take_along_axis(block, most, axis=1)], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(numbers, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def recalls(
    answers: Sequence[Sequence[int]], rows: Float32Array, queries: Float32Array, least: Float32Array, k: int
) -> Float32Array:
    """recall@k of each query: answers among its first k, no number twice, that are as near as the true k-th, over k.

    answers: numbers of rows. least: (Q,) cosine of the true k-th; as near means to a millionth.
    """
    hits = [
        np.count_nonzero(rows[list(dict.fromkeys(found))[:k]] @ query >= last - TIE)
        for found, query, last in zip(answers, queries, least, strict=True)
    ]
    return np.array(hits, dtype=np.float32) / np.float32(k)
