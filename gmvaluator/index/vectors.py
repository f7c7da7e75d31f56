"""Validation and protobuf encoding of vectors.

Every vector is validated before it is written and after it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import payload_to_grpc

from gmvaluator.errors import IndexFailed, InvalidVector
from gmvaluator.index.engine.checksums import CHECKSUM, NORM_TOLERANCE, vectors_checksum
from gmvaluator.index.schema import PERCEPTUAL, RECALL
from gmvaluator.ports import Float32Array, Point

_EXACT_TOLERANCE = 2e-7
"""Difference of a squared norm from 1 below which a server stores a vector of the cosine distance as it is."""


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


def with_checksum(point: Point) -> Point:
    """Return `point` with vectors that an index stores bit by bit, and their checksum in the payload."""
    recall, perceptual = _exactly_unit(point.recall), _exactly_unit(point.perceptual)
    checksum = vectors_checksum({RECALL: recall, PERCEPTUAL: perceptual})
    return replace(point, recall=recall, perceptual=perceptual, payload={**point.payload, CHECKSUM: checksum})


def _exactly_unit(vectors: npt.ArrayLike) -> Float32Array:
    rows = np.asarray(vectors, dtype=np.float32)
    norms = _norms(rows)
    if (
        not rows.size
        or not np.isfinite(norms).all()
        or not norms.all()
        or (abs(norms**2 - 1) <= _EXACT_TOLERANCE).all()
    ):
        return rows  # what has no norm is refused when it is written
    unit: Float32Array = (rows / norms[..., None]).astype(np.float32)
    return unit


def damaged_work(work: object, reason: str, part: str = "vectors") -> IndexFailed:
    """Return the error about a work whose stored `part` is damaged."""
    return IndexFailed(
        f"the stored {part} of work {work} are damaged ({reason}): restore the index from a backup; "
        "`gmvaluator index verify --deep` lists all that are"
    )


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


def dense_row(vector: Any) -> Float32Array:
    """Return the one vector (D,) in a Vector or VectorOutput message."""
    return _numbers(vector.dense if vector.HasField("dense") else vector)


def dense_rows(vector: Any) -> Float32Array:
    """Return the list of vectors (V, D) in a Vector or VectorOutput message; (0,) if it has none."""
    rows = [_numbers(part) for part in vector.multi_dense.vectors]
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else np.empty(0, np.float32)


def _numbers(message: Any) -> Float32Array:
    """Return the numbers of a message's field `data`."""
    # The packed numbers are copied as bytes: reading them one by one takes most of the time of a check.
    count, wire = len(message.data), message.SerializeToString()
    if len(wire) == len(_DATA_TAG + _varint(4 * count)) + 4 * count and wire.startswith(_DATA_TAG):
        return np.frombuffer(wire, "<f4", offset=len(wire) - 4 * count)
    return np.asarray(message.data, np.float32)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
