"""Validation and protobuf encoding of vectors.

Every vector is validated before it is written and after it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import payload_to_grpc

from gmvaluator.errors import InvalidVector
from gmvaluator.index.schema import PERCEPTUAL, RECALL
from gmvaluator.ports import Float32Array, Point

NORM_TOLERANCE = 1e-3
"""Largest accepted difference of a vector's norm from 1."""


def all_fit(vectors: Sequence[npt.ArrayLike], shape: tuple[int, ...]) -> bool:
    """Return whether every array has `shape`, and only finite rows of unit norm.

    All arrays are checked in one pass; call `checked_vector` or `checked_vectors` for the error of a single one.
    """
    arrays = [np.asarray(vector, dtype=np.float32) for vector in vectors]
    if any(array.shape != shape for array in arrays):
        return False
    return not arrays or bool(_is_unit(_norms(np.stack(arrays))).all())


def checked_vectors(vectors: npt.ArrayLike, count: int, dimension: int, subject: str) -> Float32Array:
    """Return `vectors` as (count, dimension) float32, each row checked as by `checked_vector`. Raises InvalidVector."""
    array = np.asarray(vectors, dtype=np.float32)
    if array.shape != (count, dimension):
        raise InvalidVector(
            f"{subject} has shape {array.shape}, the index holds ({count}, {dimension}): use its own profile"
        )
    norms = _norms(array)
    unfit = ~_is_unit(norms)
    if unfit.any():
        raise _not_unit(subject, float(norms[unfit][0]))
    return array


def checked_vector(vector: npt.ArrayLike, dimension: int, subject: str) -> Float32Array:
    """Return `vector` as (dimension,) float32.

    Raises InvalidVector about `subject` unless it is finite, of unit norm.
    """
    # A single vector that is not finite makes every later build of the index fail.
    array = np.asarray(vector, dtype=np.float32)
    if array.shape != (dimension,):
        raise InvalidVector(f"{subject} has shape {array.shape}, the index holds ({dimension},): use its own profile")
    norm = float(np.linalg.norm(array.astype(np.float64)))
    if not abs(norm - 1.0) <= NORM_TOLERANCE:
        raise _not_unit(subject, norm)
    return array


def _norms(rows: Float32Array) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("...d,...d->...", wide, wide))
    return norms


def _is_unit(norms: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    unit: npt.NDArray[np.bool_] = np.abs(norms - 1.0) <= NORM_TOLERANCE
    return unit


def _not_unit(subject: str, norm: float) -> InvalidVector:
    return InvalidVector(f"{subject} has norm {norm:.6g}: give finite vectors of unit norm")


_DATA_TAG = b"\x0a"
"""Protobuf tag of DenseVector.data: field 1, packed."""


def point_message(point: Point, recall: Float32Array, perceptual: Float32Array) -> messages.PointStruct:
    """Return the protobuf message of `point`, with its checked vectors `recall` (D,) and `perceptual` (V, P)."""
    point_id = messages.PointId(uuid=str(point.training_image_id))
    message = messages.PointStruct(id=point_id, payload=payload_to_grpc(dict(point.payload)))
    vectors = message.vectors.vectors.vectors
    vectors[RECALL].dense.MergeFromString(dense_wire(recall))
    views = vectors[PERCEPTUAL].multi_dense.vectors
    for view in perceptual:
        views.add().MergeFromString(dense_wire(view))
    return message


def dense_wire(vector: Float32Array) -> bytes:
    """Return a serialised DenseVector message that holds `vector`."""
    # The bytes are copied whole: appending the numbers one by one takes most of the time of an upsert.
    data = vector.astype("<f4", copy=False).tobytes()
    return _DATA_TAG + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
