"""Conversion of points, filters and queries between protobuf messages and qdrant-edge."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import grpc as messages

from gmvaluator.index.engine.settings import VectorSettings
from gmvaluator.index.engine.supported_api import invalid

# Re-ranking queries 200 ids per generated image, many of them again and again.
_CACHED_IDS = 50_000
"""Size of the cache of parsed ids."""

_MAX_LIMIT = 10_000
_DEFAULT_LIMIT = 10
_MAX_VECTORS = 1_024
"""Maximum number of vectors of one name per point."""

_Vectors = Mapping[str, VectorSettings]


def from_value(value: messages.Value) -> Any:
    """Convert a payload or metadata value to a JSON value."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: from_value(part) for key, part in value.struct_value.fields.items()}
    if kind == "list_value":
        return [from_value(part) for part in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def to_value(value: Any) -> messages.Value:
    """Convert a JSON value to a message."""
    if value is None:
        return messages.Value(null_value=messages.NULL_VALUE)
    if isinstance(value, bool):  # before int, of which it is a subclass
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
    """Convert a point's payload to a JSON object."""
    return {key: from_value(value) for key, value in payload.items()}


@lru_cache(maxsize=_CACHED_IDS)
def _uuid(text: str) -> UUID:
    return UUID(text)


def from_point_id(point_id: messages.PointId) -> int | UUID:
    """Return a point's id. Raises Refused if it is missing, or neither a number nor a UUID."""
    kind = point_id.WhichOneof("point_id_options")
    if kind == "num":
        return point_id.num
    try:
        return _uuid(point_id.uuid)
    except ValueError:
        raise invalid(f"point id {point_id.uuid[:60]!r} is neither a number nor a UUID") from None


def to_point_id(point_id: int | str | UUID) -> messages.PointId:
    """Convert a point's id to a message."""
    return messages.PointId(num=point_id) if isinstance(point_id, int) else messages.PointId(uuid=str(point_id))


def finite(data: Any, dimension: int, name: str) -> list[float]:
    """Return a vector as a list. Raises Refused if it does not have `dimension` numbers or is not finite."""
    return _finite(list(data), dimension, name)


def finite_dense(vector: messages.DenseVector, dimension: int, name: str) -> list[float]:
    """Return the vector in a message as a list. Raises Refused like `finite`."""
    # The packed numbers are copied as bytes: reading them one by one takes four times as long.
    wire = vector.SerializeToString()
    numbers = array("f")
    numbers.frombytes(wire[len(wire) - numbers.itemsize * len(vector.data) :])
    if sys.byteorder == "big" or len(wire) != _packed_bytes(len(vector.data)):
        return finite(vector.data, dimension, name)  # unknown fields follow the numbers
    return _finite(numbers.tolist(), dimension, name)


def _packed_bytes(count: int) -> int:
    """Return the size of a serialised DenseVector of `count` numbers: a tag, the length as a varint, the numbers."""
    size = 4 * count
    return 1 + max(1, -(-size.bit_length() // 7)) + size if count else 0


def _finite(numbers: list[float], dimension: int, name: str) -> list[float]:
    if len(numbers) != dimension:
        raise invalid(f"vector {name!r} has {len(numbers)} dimensions, the collection has {dimension}")
    # A single NaN would make every build fail. The sum is finite if all numbers are (float32 cannot overflow a double).
    if not math.isfinite(sum(numbers)):
        raise invalid(f"vector {name!r} is not finite")
    return numbers


def point_of(point: messages.PointStruct, vectors: _Vectors) -> edge.Point:
    """Convert a point to write, which must have every vector of the collection. Raises Refused."""
    given = point.vectors.vectors.vectors
    if set(given) != set(vectors):
        raise invalid(f"a point needs the vectors {', '.join(sorted(vectors))}; given: {', '.join(sorted(given))}")
    data: Any = {name: _data(given[name], settings, name) for name, settings in vectors.items()}
    return edge.Point(from_point_id(point.id), data, from_payload(point.payload))


def _data(vector: messages.Vector, settings: VectorSettings, name: str) -> list[float] | list[list[float]]:
    if settings.several != vector.HasField("multi_dense"):
        raise invalid(f"vector {name!r} needs {'a list of vectors' if settings.several else 'one dense vector'}")
    if not settings.several:
        if vector.HasField("dense"):
            return finite_dense(vector.dense, settings.size, name)
        return finite(vector.data, settings.size, name)
    parts = vector.multi_dense.vectors
    if not 1 <= len(parts) <= _MAX_VECTORS:
        raise invalid(f"vector {name!r} has {len(parts)} parts: give 1 to {_MAX_VECTORS}")
    return [finite_dense(part, settings.size, name) for part in parts]


def ids_of(ids: Sequence[messages.PointId]) -> list[Any]:
    """Convert point ids. Raises Refused."""
    return [from_point_id(point_id) for point_id in ids]


def query_of(request: messages.QueryPoints, vectors: _Vectors) -> edge.QueryRequest:
    """Convert a nearest-neighbour query. Raises Refused."""
    settings = vectors.get(request.using)
    if settings is None:
        raise invalid(f"there is no vector {request.using!r}: use one of {', '.join(sorted(vectors))}")
    if request.query.nearest.WhichOneof("variant") != "dense":
        raise invalid("the query needs a dense vector")
    nearest = finite(request.query.nearest.dense.data, settings.size, request.using)
    return edge.QueryRequest(
        query=edge.Query.Nearest(nearest, using=request.using),
        limit=_limit(request),
        offset=request.offset,
        filter=filter_of(request.filter) if request.HasField("filter") else None,
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        params=_params(request.params) if request.HasField("params") else None,
        with_payload=with_payload_of(request.with_payload),
        with_vector=with_vectors_of(request.with_vectors),
    )


def scroll_of(request: messages.ScrollPoints) -> edge.ScrollRequest:
    """Convert a request for a page of points in id order. Raises Refused."""
    return edge.ScrollRequest(
        offset=from_point_id(request.offset) if request.HasField("offset") else None,
        limit=_limit(request),
        filter=filter_of(request.filter) if request.HasField("filter") else None,
        with_payload=with_payload_of(request.with_payload, absent=True),
        with_vector=with_vectors_of(request.with_vectors),
    )


def _limit(request: messages.QueryPoints | messages.ScrollPoints) -> int:
    limit: int = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
    if not 1 <= limit <= _MAX_LIMIT:
        raise invalid(f"a limit of {limit} is refused: use 1 to {_MAX_LIMIT}")
    return limit


def _params(params: messages.SearchParams) -> edge.SearchParams:
    quantisation = params.quantization if params.HasField("quantization") else None
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef if params.HasField("hnsw_ef") else None,
        exact=params.exact,
        indexed_only=params.indexed_only,
        quantization=None if quantisation is None else _quantisation(quantisation),
    )


def _quantisation(params: messages.QuantizationSearchParams) -> edge.QuantizationSearchParams:
    return edge.QuantizationSearchParams(
        ignore=params.ignore,
        rescore=params.rescore if params.HasField("rescore") else None,
        oversampling=params.oversampling if params.HasField("oversampling") else None,
    )


def filter_of(value: messages.Filter) -> edge.Filter:
    """Convert a filter on ids and payload. Raises Refused."""
    return edge.Filter(
        must=[_condition(part) for part in value.must],
        should=[_condition(part) for part in value.should] or None,
        must_not=[_condition(part) for part in value.must_not],
    )


def _condition(value: messages.Condition) -> Any:
    kind = value.WhichOneof("condition_one_of")
    if kind == "has_id":
        return edge.HasIdCondition(set(ids_of(value.has_id.has_id)))
    if kind == "filter":
        return filter_of(value.filter)
    if kind == "field":
        return edge.FieldCondition(value.field.key, match=_match(value.field.match))
    raise invalid("a filter has an empty condition")


def compared_ids(requests: Iterable[messages.QueryPoints]) -> list[Any]:
    """Return the distinct ids that exact queries name as those to compare. Raises Refused."""
    conditions: list[messages.HasIdCondition] = []
    for request in requests:
        for condition in request.filter.must if request.params.exact else ():
            # The queries for the views of one image name the same ids.
            if condition.HasField("has_id") and condition.has_id not in conditions:
                conditions.append(condition.has_id)
    return list(dict.fromkeys(point for condition in conditions for point in ids_of(condition.has_id)))


def _match(value: messages.Match) -> Any:
    kind = value.WhichOneof("match_value")
    if kind == "keywords":
        return edge.MatchAny(list(value.keywords.strings))
    if kind == "integers":
        return edge.MatchAny(list(value.integers.integers))
    if kind is None:
        raise invalid("a field condition needs a match")
    return edge.MatchValue(getattr(value, kind))


def with_payload_of(selector: messages.WithPayloadSelector, absent: bool = False) -> Any:
    """Convert a payload selector. absent: the value for a selector that is not set."""
    kind = selector.WhichOneof("selector_options")
    if kind == "include":
        return edge.PayloadSelector.Include(list(selector.include.fields))
    if kind == "exclude":
        return edge.PayloadSelector.Exclude(list(selector.exclude.fields))
    return absent if kind is None else selector.enable


def with_vectors_of(selector: messages.WithVectorsSelector) -> bool | list[str]:
    """Convert a vector selector; one that is not set selects none."""
    if selector.WhichOneof("selector_options") == "include":
        return list(selector.include.names)
    enable: bool = selector.enable
    return enable


def add_scored(result: Any, points: Iterable[edge.ScoredPoint]) -> None:
    """Append the results of a query to `result`, a repeated ScoredPoint."""
    # Filling the messages in place takes half the time of building and copying them.
    for point in points:
        message = result.add()
        _set_id(message.id, point.id)
        message.score = point.score
        message.version = point.version
        _set_content(message, point.payload, point.vector)


def add_records(result: Any, records: Iterable[edge.Record]) -> None:
    """Append stored points to `result`, a repeated RetrievedPoint."""
    for record in records:
        message = result.add()
        _set_id(message.id, record.id)
        _set_content(message, record.payload, record.vector)


def _set_id(message: messages.PointId, point_id: Any) -> None:
    if isinstance(point_id, int):
        message.num = point_id
    else:
        message.uuid = str(point_id)


def _set_content(message: Any, payload: Mapping[str, Any] | None, vectors: Any) -> None:
    for key, value in (payload or {}).items():
        if isinstance(value, str):
            message.payload[key].string_value = value  # in place, because local features are long
        else:
            message.payload[key].CopyFrom(to_value(value))
    for name, data in (vectors or {}).items():
        _set_vector(message.vectors.vectors.vectors[name], data)


def _set_vector(message: Any, data: Sequence[Any]) -> None:
    if not isinstance(data[0], Sequence):
        message.dense.data.extend(data)
        return
    for part in data:
        message.multi_dense.vectors.add().data.extend(part)
