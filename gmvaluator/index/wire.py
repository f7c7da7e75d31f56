"""A point as the wire has it; its vectors are copied as bytes, as number by number they take most of an upsert."""

from __future__ import annotations

from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import payload_to_grpc

from gmvaluator.index.schema import PERCEPTUAL, RECALL
from gmvaluator.ports import Float32Array, Point

_DATA = b"\x0a"
"""Key of DenseVector.data on the wire: field 1, packed."""


def point_message(point: Point, recall: Float32Array, perceptual: Float32Array) -> messages.PointStruct:
    """`point` with its vectors, (D,) and (V, P), as checked."""
    point_id = messages.PointId(uuid=str(point.training_image_id))
    message = messages.PointStruct(id=point_id, payload=payload_to_grpc(dict(point.payload)))
    vectors = message.vectors.vectors.vectors
    vectors[RECALL].dense.MergeFromString(dense_wire(recall))
    views = vectors[PERCEPTUAL].multi_dense.vectors
    for view in perceptual:
        views.add().MergeFromString(dense_wire(view))
    return message


def dense_wire(vector: Float32Array) -> bytes:
    """A DenseVector message that holds `vector`, serialised."""
    data = vector.astype("<f4", copy=False).tobytes()
    return _DATA + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
