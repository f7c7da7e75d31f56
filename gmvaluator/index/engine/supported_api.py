"""The supported subset of Qdrant's gRPC API: calls, and the fields of their messages.

A call that is not listed is answered UNIMPLEMENTED by the base servicers. So is a request that sets a field which is
not listed, because the result of ignoring it would be wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

CALLS = {
    "qdrant.Qdrant": ("HealthCheck",),
    "qdrant.Collections": (
        "Get", "List", "Create", "Update", "Delete", "CollectionExists", "ListAliases", "ListCollectionAliases",
        "UpdateAliases",
    ),
    "qdrant.Points": (
        "Upsert", "Delete", "Get", "SetPayload", "DeletePayload", "CreateFieldIndex", "Query", "QueryBatch", "Scroll",
        "Count",
    ),
}  # fmt: skip

OPAQUE = frozenset({"payload", "metadata"})
"""Fields that hold the users' own JSON, whose content is not checked."""

FIELDS = {
    "AliasOperations": "create_alias delete_alias",
    "ChangeAliases": "actions timeout",
    "CollectionExistsRequest": "collection_name",
    "Condition": "field filter has_id",
    "CountPoints": "collection_name filter exact timeout",
    "CreateAlias": "collection_name alias_name",
    "CreateCollection": "collection_name vectors_config optimizers_config metadata timeout",
    "CreateFieldIndexCollection": "collection_name wait field_name field_type timeout",
    "DeleteAlias": "alias_name",
    "DeleteCollection": "collection_name timeout",
    "DeletePayloadPoints": "collection_name wait keys points_selector timeout",
    "DeletePoints": "collection_name wait points timeout",
    "DenseVector": "data",
    "FieldCondition": "key match",
    "Filter": "must should must_not",
    "GetCollectionInfoRequest": "collection_name",
    "GetPoints": "collection_name ids with_payload with_vectors timeout",
    "HasIdCondition": "has_id",
    "HealthCheckRequest": "",
    "HnswConfigDiff": "m ef_construct full_scan_threshold",
    "ListAliasesRequest": "",
    "ListCollectionAliasesRequest": "collection_name",
    "ListCollectionsRequest": "",
    "Match": "keyword integer keywords integers",
    "MultiDenseVector": "vectors",
    "MultiVectorConfig": "comparator",
    "NamedVectors": "vectors",
    "OptimizersConfigDiff": "default_segment_number max_segment_size indexing_threshold deleted_threshold",
    "PayloadExcludeSelector": "fields",
    "PayloadIncludeSelector": "fields",
    "PointId": "num uuid",
    "PointStruct": "id payload vectors",
    "PointsIdsList": "ids",
    "PointsSelector": "points filter",
    "ProductQuantization": "compression always_ram",
    "QuantizationConfig": "product scalar turboquant",
    "QuantizationConfigDiff": "product scalar turboquant",
    "QuantizationSearchParams": "ignore rescore oversampling",
    "Query": "nearest",
    "QueryBatchPoints": "collection_name query_points timeout",
    "QueryPoints": "collection_name query using filter params score_threshold limit offset with_vectors with_payload "
    "timeout",
    "RepeatedIntegers": "integers",
    "RepeatedStrings": "strings",
    "ScalarQuantization": "type always_ram",
    "ScrollPoints": "collection_name filter offset limit with_payload with_vectors timeout",
    "SearchParams": "hnsw_ef exact quantization indexed_only",
    "SetPayloadPoints": "collection_name wait payload points_selector timeout",
    "TurboQuantization": "bits always_ram",
    "UpdateCollection": "collection_name optimizers_config vectors_config metadata timeout",
    "UpsertPoints": "collection_name wait points timeout",
    "Vector": "data dense multi_dense",
    "VectorInput": "dense",
    "VectorParams": "size distance hnsw_config quantization_config on_disk multivector_config",
    "VectorParamsDiff": "hnsw_config quantization_config on_disk",
    "VectorParamsDiffMap": "map",
    "VectorParamsMap": "map",
    "Vectors": "vectors",
    "VectorsConfig": "params_map",
    "VectorsConfigDiff": "params_map",
    "VectorsSelector": "names",
    "WithPayloadSelector": "enable include exclude",
    "WithVectorsSelector": "enable include",
}
"""Supported fields of each message, separated by spaces."""


class Refused(Exception):
    """A request that is rejected with gRPC status `code`."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Refused:
    """Return the rejection of an invalid request (INVALID_ARGUMENT)."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


_FIELDS = {name: frozenset(fields.split()) for name, fields in FIELDS.items()}


@functools.cache
def _fully_supported(descriptor: Descriptor) -> bool:
    """Return whether all fields of a message type are supported, recursively, so that it needs no check."""
    allowed = _FIELDS.get(descriptor.name, frozenset())
    return all(
        field.name in allowed
        and (field.message_type is None or field.name in OPAQUE or _fully_supported(field.message_type))
        for field in descriptor.fields
    )


def require_supported(message: Message) -> None:
    """Raise Refused (UNIMPLEMENTED) if `message`, or a message in it, sets a field that is not in `FIELDS`."""
    allowed = _FIELDS.get(message.DESCRIPTOR.name, frozenset())
    for field, value in message.ListFields():
        if field.name not in allowed:
            text = f"the embedded engine does not support {message.DESCRIPTOR.name}.{field.name}: use a Qdrant server"
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, text)
        if field.message_type is not None and field.name not in OPAQUE and not _fully_supported(field.message_type):
            for inner in _inner_messages(field, value):
                require_supported(inner)


def _inner_messages(field: FieldDescriptor, value: Any) -> Iterable[Message]:
    """Return the messages in a field: a single one, a list, or a map's values."""
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        values: Iterable[Message] = value.values()
        return values
    return value if field.is_repeated else (value,)
