"""Whitening: a projection after which unrelated images are as spread in one direction as in any other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Projection:
    """(x - shift) @ matrix: shift (F,) float32, matrix (F, D) float16, largest entry about 1."""

    shift: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float16]


def fit_whitening(features: npt.NDArray[np.floating], dimension: int) -> Projection:
    """PCA whitening of (N, F) features to `dimension` directions.

    matrix = V_D Λ_D^(-1/2), with the D largest eigenvalues Λ of the covariance and their eigenvectors V. The result
    is scaled to fit float16; unit norm undoes the scale.
    """
    values = features.astype(np.float64)
    shift = values.mean(axis=0)
    centred = values - shift
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / len(values))
    largest = np.argsort(eigenvalues)[::-1][:dimension]
    matrix = vectors[:, largest] / np.sqrt(eigenvalues[largest])
    scaled = _fix_signs(matrix) / np.abs(matrix).max()
    return Projection(shift.astype(np.float32), scaled.astype(np.float16))


def _fix_signs(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Eigenvectors have no sign of their own: make each column's largest entry positive."""
    largest = matrix[np.abs(matrix).argmax(axis=0), np.arange(matrix.shape[1])]
    signed: npt.NDArray[np.float64] = matrix * np.sign(largest)
    return signed
