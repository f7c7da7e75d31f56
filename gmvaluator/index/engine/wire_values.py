"""Between JSON values, point ids and vectors on the wire and in Python."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from qdrant_client import grpc as messages

from gmvaluator.index.engine.calls import invalid

_KNOWN_IDS = 50_000
"""Ids that are kept as text and as UUID: every generated image asks for 200 of them by name."""


def from_value(value: messages.Value) -> Any:
    """A payload or metadata value as plain JSON."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: from_value(part) for key, part in value.struct_value.fields.items()}
    if kind == "list_value":
        return [from_value(part) for part in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def to_value(value: Any) -> messages.Value:
    """Inverse of `from_value`."""
    if value is None:
        return messages.Value(null_value=messages.NULL_VALUE)
    if isinstance(value, bool):
        return messages.Value(bool_value=value)
    if isinstance(value, int):
        return messages.Value(integer_value=value)
    if isinstance(value, float):
        return messages.Value(double_value=value)
    if isinstance(value, str):
        return messages.Value(string_value=value)
    if isinstance(value, Mapping):
        fields = {key: to_value(part) for key, part in value.items()}
        return messages.Value(struct_value=messages.Struct(fields=fields))
    return messages.Value(list_value=messages.ListValue(values=[to_value(part) for part in value]))


def from_payload(payload: Mapping[str, messages.Value]) -> dict[str, Any]:
    """A point's payload as plain JSON."""
    return {key: from_value(value) for key, value in payload.items()}


@lru_cache(maxsize=_KNOWN_IDS)
def _uuid(text: str) -> UUID:
    return UUID(text)


def from_point_id(point_id: messages.PointId) -> int | UUID:
    """A point's id. Raises Refused if there is none, or if it is no UUID."""
    kind = point_id.WhichOneof("point_id_options")
    if kind == "num":
        return point_id.num
    try:
        return _uuid(point_id.uuid)
    except ValueError:
        raise invalid(f"point id {point_id.uuid[:60]!r} is neither a number nor a UUID") from None


def to_point_id(point_id: int | str | UUID) -> messages.PointId:
    """Inverse of `from_point_id`."""
    return messages.PointId(num=point_id) if isinstance(point_id, int) else messages.PointId(uuid=str(point_id))


def finite(data: Any, dimension: int, name: str) -> list[float]:
    """A vector as a list. Raises Refused if it has another dimension or is not finite: one NaN stops every build."""
    return _finite(list(data), dimension, name)


def finite_dense(vector: messages.DenseVector, dimension: int, name: str) -> list[float]:
    """The same of a whole message: its bytes are copied, as a list made number by number takes four times as long."""
    wire = vector.SerializeToString()
    numbers = array("f")
    numbers.frombytes(wire[len(wire) - numbers.itemsize * len(vector.data) :])
    if sys.byteorder == "big" or len(wire) != _packed_bytes(len(vector.data)):
        return finite(vector.data, dimension, name)  # it has fields that we do not know, which come last
    return _finite(numbers.tolist(), dimension, name)


def _packed_bytes(count: int) -> int:
    """Bytes of a DenseVector of so many numbers: a key, the length in groups of seven bits, the numbers."""
    size = 4 * count
    return 1 + max(1, -(-size.bit_length() // 7)) + size if count else 0


def _finite(numbers: list[float], dimension: int, name: str) -> list[float]:
    if len(numbers) != dimension:
        raise invalid(f"vector {name!r} has {len(numbers)} dimensions, the collection has {dimension}")
    if not math.isfinite(sum(numbers)):
        raise invalid(f"vector {name!r} is not finite")
    return numbers
