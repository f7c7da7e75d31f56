"""The border every vector crosses, on its way in and on its way out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidVector
from gmvaluator.ports import Float32Array

NORM_TOLERANCE = 1e-3


def checked_vectors(vectors: npt.ArrayLike, count: int, dimension: int, subject: str) -> Float32Array:
    """`vectors` as (count, dimension) float32, each row as `checked_vector` has it. Raises InvalidVector."""
    array = np.asarray(vectors, dtype=np.float32)
    if array.shape != (count, dimension):
        raise InvalidVector(
            f"{subject} has shape {array.shape}, the index holds ({count}, {dimension}): use its own profile"
        )
    wide = array.astype(np.float64)
    norms = np.sqrt(np.einsum("vd,vd->v", wide, wide))
    unfit = ~(np.abs(norms - 1.0) <= NORM_TOLERANCE)
    if unfit.any():
        raise _not_unit(subject, float(norms[unfit][0]))
    return array


def checked_vector(vector: npt.ArrayLike, dimension: int, subject: str) -> Float32Array:
    """`vector` as (dimension,) float32. Raises InvalidVector, naming `subject`, unless it is finite and of unit norm.

    One vector that is not finite makes every later build of the index fail.
    """
    array = np.asarray(vector, dtype=np.float32)
    if array.shape != (dimension,):
        raise InvalidVector(f"{subject} has shape {array.shape}, the index holds ({dimension},): use its own profile")
    norm = float(np.linalg.norm(array.astype(np.float64)))
    if not abs(norm - 1.0) <= NORM_TOLERANCE:
        raise _not_unit(subject, norm)
    return array


def _not_unit(subject: str, norm: float) -> InvalidVector:
    return InvalidVector(f"{subject} has norm {norm:.6g}: give finite vectors of unit norm")
