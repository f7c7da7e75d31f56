"""Projections fitted on unlabelled works: what varies between works is kept, evened out, and cut to D directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Projection:
    """(x - shift) @ matrix: shift (F,) float32, matrix (F, D) float16, its largest entry 1."""

    shift: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float16]


def fit_whitening(works: npt.NDArray[np.floating], dimension: int) -> Projection:
    """PCA whitening: unrelated works are as spread in one of D directions as in any other.

    works: (N, F). matrix = V_D Λ_D^(-1/2), with Λ_D the D largest eigenvalues of the works' covariance and V_D their
    vectors.
    """
    shift = works.mean(axis=0, dtype=np.float64)
    spread, vectors = _principal(works - shift, dimension)
    return _packed(shift, vectors / np.sqrt(spread))


def fit_invariance(
    works: npt.NDArray[np.floating], views: npt.NDArray[np.floating], dimension: int, shrinkage: float
) -> Projection:
    """Whitening of what a change of view does to a work, then the D directions in which works differ most.

    works: (N, F). views: (N, V, F), V changed views of each work. With S the mean outer product of
    (view - work) and t its mean variance, W = (S + shrinkage · t · I)^(-1/2), and V_D the leading eigenvectors of the
    covariance of the works times W: matrix = W V_D. Higher shrinkage trusts the views less; plain PCA is its limit.
    """
    shift = works.mean(axis=0, dtype=np.float64)
    change = (views - works[:, None]).reshape(-1, works.shape[1]).astype(np.float64)
    scatter = change.T @ change / len(change)
    scatter += shrinkage * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    spread, vectors = np.linalg.eigh(scatter)
    evened = vectors / np.sqrt(spread)
    _, leading = _principal((works - shift) @ evened, dimension)
    return _packed(shift, evened @ leading)


def _principal(centred: Matrix, dimension: int) -> tuple[Matrix, Matrix]:
    """The largest eigenvalues of the covariance, descending, and their vectors (F, D)."""
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    return eigenvalues[::-1][:dimension], vectors[:, ::-1][:, :dimension]


def _packed(shift: Matrix, matrix: Matrix) -> Projection:
    """Scaled to fit float16, which unit norm undoes; eigenvectors have no sign, so each column's largest entry is
    made positive."""
    largest = matrix[np.abs(matrix).argmax(axis=0), np.arange(matrix.shape[1])]
    scaled = matrix * np.sign(largest) / np.abs(matrix).max()
    return Projection(shift.astype(np.float32), scaled.astype(np.float16))
