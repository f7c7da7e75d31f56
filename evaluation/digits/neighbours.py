"""Exact nearest neighbours, and what a policy pays them: the plain twin of the index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import distance_millionths

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Near:
    """rows: (J, K) training images of each of J generated images, nearest first. distances: (J, K), 1 - cosine."""

    rows: Rows
    distances: Values

    def first(self, k: int) -> Near:
        """The k nearest of each."""
        return Near(self.rows[:, :k], self.distances[:, :k])


def distances(queries: npt.NDArray[np.float32], works: npt.NDArray[np.float32]) -> Values:
    """(J, D) and (N, D), unit norm, to (J, N): 1 - cosine, in [0, 2]."""
    cosine = queries.astype(np.float64) @ works.astype(np.float64).T
    return np.asarray(np.clip(1 - cosine, 0, 2))


def nearest(matrix: Values, k: int) -> Near:
    """The k smallest of each row of (J, N) distances; equal ones in the order of the works."""
    rows = np.argsort(matrix, axis=1, kind="stable")[:, :k]
    return Near(rows, np.take_along_axis(matrix, rows, axis=1))


def shares(near: Near, policy: Policy) -> Values:
    """(J, K) shares of the contributors by the policy; what is missing to one goes to nobody."""
    cut = near.first(policy.k)
    found = np.zeros(near.rows.shape)
    for row, line in enumerate(cut.distances):
        found[row, : len(line)], _ = policy.shares([distance_millionths(float(one)) for one in line])
    return found


def paid(near: Near, portions: Values, works: int, quality: Values | None = None) -> Values:
    """(J, N) value V(x_i, x̂_j) of every training image (equation 4); quality: (J,), or every image counts 1."""
    matrix = np.zeros((len(near.rows), works))
    weights = portions if quality is None else portions * quality[:, None]
    np.put_along_axis(matrix, near.rows, weights, axis=1)
    return matrix
