"""Conversion of collection settings and state between protobuf messages and the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import qdrant_edge as edge
from qdrant_client import grpc as messages

from gmvaluator.index.engine.collection import Collection
from gmvaluator.index.engine.quantisation import SCALAR, TURBO
from gmvaluator.index.engine.settings import CollectionSettings, HnswSettings, VectorSettings
from gmvaluator.index.engine.supported_api import invalid
from gmvaluator.index.engine.wire_points import from_value, to_value

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_DISTANCES = {
    messages.Distance.Cosine: "cosine",
    messages.Distance.Dot: "dot",
    messages.Distance.Euclid: "euclid",
    messages.Distance.Manhattan: "manhattan",
}
_PRODUCT = {
    messages.CompressionRatio.x4: "pq-x4",
    messages.CompressionRatio.x8: "pq-x8",
    messages.CompressionRatio.x16: "pq-x16",
    messages.CompressionRatio.x32: "pq-x32",
    messages.CompressionRatio.x64: "pq-x64",
}
_TURBO = {messages.TurboQuantBitSize.Bits2: "turbo-2", messages.TurboQuantBitSize.Bits4: "turbo-4"}
_MAX_DIMENSION = 65_536
FLUSH_INTERVAL_S = 3
"""Interval between flushes, in seconds. Until then a write is in the write-ahead log, in the page cache."""

_DEFAULT_INDEXING_THRESHOLD_KB = 10_000
_DEFAULT_SEGMENTS = 1
_FIELD_TYPES = {
    messages.FieldType.FieldTypeKeyword: edge.PayloadSchemaType.Keyword,
    messages.FieldType.FieldTypeInteger: edge.PayloadSchemaType.Integer,
    messages.FieldType.FieldTypeFloat: edge.PayloadSchemaType.Float,
    messages.FieldType.FieldTypeBool: edge.PayloadSchemaType.Bool,
    messages.FieldType.FieldTypeDatetime: edge.PayloadSchemaType.Datetime,
    messages.FieldType.FieldTypeUuid: edge.PayloadSchemaType.Uuid,
}


def collection_name(text: str) -> str:
    """Return `text` if it is valid as a collection's name, which is also a folder's name. Raises Refused."""
    if not _NAME.fullmatch(text):
        raise invalid(f"collection name {text[:60]!r} is refused: use 1-100 characters of A-Z a-z 0-9 _ -")
    return text


def settings_of(request: messages.CreateCollection) -> CollectionSettings:
    """Convert the settings of a new collection. Raises Refused."""
    vectors = {name: _vector(name, value) for name, value in request.vectors_config.params_map.map.items()}
    if not vectors:
        raise invalid("the embedded engine needs named vectors: give vectors_config a map")
    optimizers = request.optimizers_config
    if optimizers.HasField("deleted_threshold"):
        raise invalid("a new collection has nothing deleted: give deleted_threshold to an update, which rebuilds")
    return CollectionSettings(
        vectors=vectors,
        segments=optimizers.default_segment_number or _DEFAULT_SEGMENTS,
        max_segment_kb=optimizers.max_segment_size or None,
        indexing_threshold_kb=optimizers.indexing_threshold
        if optimizers.HasField("indexing_threshold")
        else _DEFAULT_INDEXING_THRESHOLD_KB,
    )


def threshold_of(request: messages.UpdateCollection) -> int | None:
    """Return the indexing threshold that an update sets, in KB, or None.

    Raises Refused for other optimizer settings.
    """
    optimizers = request.optimizers_config
    if optimizers.HasField("default_segment_number") or optimizers.HasField("max_segment_size"):
        raise invalid("the embedded engine changes indexing_threshold only: make a new collection for the rest")
    return optimizers.indexing_threshold if optimizers.HasField("indexing_threshold") else None


def rebuilt_vectors(
    request: messages.UpdateCollection, vectors: Mapping[str, VectorSettings]
) -> dict[str, VectorSettings] | None:
    """Return the vector settings after the rebuild that an update requests, or None if it requests none.

    A deleted_threshold of 0 requests a rebuild, because no deleted point may remain; so does every change of a vector's
    settings. Raises Refused.
    """
    optimizers, changes = request.optimizers_config, request.vectors_config.params_map.map
    purges = optimizers.HasField("deleted_threshold")
    if purges and optimizers.deleted_threshold > 0:
        raise invalid("the embedded engine knows a deleted_threshold of 0 only: it rebuilds the collection")
    if not (purges or changes):
        return None
    unknown = set(changes) - set(vectors)
    if unknown:
        raise invalid(f"there is no vector {', '.join(sorted(unknown))}: use one of {', '.join(sorted(vectors))}")
    return {name: _changed(vector, changes[name]) if name in changes else vector for name, vector in vectors.items()}


def _changed(vector: VectorSettings, change: messages.VectorParamsDiff) -> VectorSettings:
    hnsw = vector.hnsw
    given = change.hnsw_config
    hnsw = HnswSettings(
        m=given.m if given.HasField("m") else hnsw.m,
        ef_construct=given.ef_construct or hnsw.ef_construct,
        full_scan_threshold_kb=given.full_scan_threshold or hnsw.full_scan_threshold_kb,
    )
    quantisation, codes_in_ram = vector.quantisation, vector.codes_in_ram
    if change.HasField("quantization_config"):
        quantisation, codes_in_ram = _quantisation(change.quantization_config)
    on_disk = change.on_disk if change.HasField("on_disk") else vector.on_disk
    return replace(vector, hnsw=hnsw, quantisation=quantisation, codes_in_ram=codes_in_ram, on_disk=on_disk)


def field_type(request: messages.CreateFieldIndexCollection) -> edge.PayloadSchemaType:
    """Return the type of the requested payload index. Raises Refused."""
    if not request.HasField("field_type") or request.field_type not in _FIELD_TYPES:
        raise invalid("field_type must be keyword, integer, float, bool, datetime or uuid")
    return _FIELD_TYPES[request.field_type]


def _vector(name: str, value: messages.VectorParams) -> VectorSettings:
    if value.distance not in _DISTANCES or not 1 <= value.size <= _MAX_DIMENSION:
        raise invalid(f"vector {name!r} needs a distance and a size from 1 to {_MAX_DIMENSION}")
    quantisation, codes_in_ram = _quantisation(value.quantization_config)
    hnsw, default = value.hnsw_config, HnswSettings()
    return VectorSettings(
        size=value.size,
        distance=_DISTANCES[value.distance],
        on_disk=value.on_disk,
        hnsw=HnswSettings(
            m=hnsw.m if hnsw.HasField("m") else default.m,
            ef_construct=hnsw.ef_construct or default.ef_construct,
            full_scan_threshold_kb=hnsw.full_scan_threshold or default.full_scan_threshold_kb,
        ),
        quantisation=quantisation,
        codes_in_ram=codes_in_ram,
        several=value.HasField("multivector_config"),
    )


def _quantisation(config: messages.QuantizationConfig | messages.QuantizationConfigDiff) -> tuple[str | None, bool]:
    """Return the quantisation's name, and whether its codes are pinned in memory. Raises Refused."""
    kind = config.WhichOneof("quantization")
    if kind == "product":
        return _PRODUCT[config.product.compression], config.product.always_ram
    if kind == "scalar":
        return SCALAR, config.scalar.always_ram
    if kind == "turboquant":
        if config.turboquant.bits not in _TURBO:
            raise invalid("the embedded engine offers TurboQuant with 2 or 4 bits")
        return _TURBO[config.turboquant.bits], config.turboquant.always_ram
    return None, False


def info_of(collection: Collection) -> messages.CollectionInfo:
    """Describe a collection's state and settings. GREY: points wait for a build that has not been requested.

    indexed_vectors_count is summed over the named vectors, as on a server. Unlike there, a point counts only if its
    current vectors are quantised.
    """
    state = collection.state()
    status = messages.CollectionStatus
    return messages.CollectionInfo(
        status=status.Yellow if state.building else status.Grey if state.waiting else status.Green,
        optimizer_status=messages.OptimizerStatus(ok=state.build_error is None, error=state.build_error or ""),
        segments_count=state.segments,
        points_count=state.points,
        indexed_vectors_count=state.indexed_points * len(collection.settings.vectors),
        config=_config(collection),
        payload_schema=_payload_schema(collection),
    )


def _payload_schema(collection: Collection) -> dict[str, messages.PayloadSchemaInfo]:
    indexes = collection.read(lambda shard: shard.info()).payload_schema
    return {
        name: messages.PayloadSchemaInfo(data_type=_schema_type(index), points=index.points)
        for name, index in indexes.items()
    }


def _schema_type(index: edge.PayloadIndexInfo) -> Any:
    # qdrant-edge and the protobuf enumeration use the same names.
    return messages.PayloadSchemaType.Value(repr(index.data_type).rpartition(".")[2])


def _config(collection: Collection) -> messages.CollectionConfig:
    settings = collection.settings
    vectors = {name: _vector_params(vector) for name, vector in settings.vectors.items()}
    default = HnswSettings()
    config = messages.CollectionConfig(
        params=messages.CollectionParams(
            vectors_config=messages.VectorsConfig(params_map=messages.VectorParamsMap(map=vectors)),
            shard_number=1,
            on_disk_payload=True,
        ),
        hnsw_config=_hnsw_config(default),
        optimizer_config=messages.OptimizersConfigDiff(
            deleted_threshold=0.2,
            vacuum_min_vector_number=1000,
            default_segment_number=settings.segments,
            max_segment_size=settings.max_segment_kb or None,
            indexing_threshold=settings.indexing_threshold_kb,
            flush_interval_sec=FLUSH_INTERVAL_S,
        ),
        wal_config=messages.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
    )
    for key, value in collection.metadata.items():
        config.metadata[key].CopyFrom(to_value(value))
    return config


def _vector_params(vector: VectorSettings) -> messages.VectorParams:
    params = messages.VectorParams(
        size=vector.size,
        distance=_key(_DISTANCES, vector.distance),
        on_disk=vector.on_disk,
        hnsw_config=_hnsw_config(vector.hnsw),
    )
    if vector.quantisation is not None:
        params.quantization_config.CopyFrom(_quantization_config(vector.quantisation, vector.codes_in_ram))
    if vector.several:
        params.multivector_config.comparator = messages.MultiVectorComparator.MaxSim
    return params


def _quantization_config(quantisation: str, codes_in_ram: bool) -> messages.QuantizationConfig:
    config = messages.QuantizationConfig()
    if quantisation == SCALAR:
        config.scalar.type = messages.QuantizationType.Int8
        config.scalar.always_ram = codes_in_ram
    elif quantisation in TURBO:
        config.turboquant.bits = _key(_TURBO, quantisation)
        config.turboquant.always_ram = codes_in_ram
    else:
        config.product.compression = _key(_PRODUCT, quantisation)
        config.product.always_ram = codes_in_ram
    return config


def _hnsw_config(hnsw: HnswSettings) -> messages.HnswConfigDiff:
    return messages.HnswConfigDiff(
        m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold_kb
    )


def _key(table: dict[Any, Any], value: object) -> Any:
    return next(key for key, entry in table.items() if entry == value)


def metadata_of(request: messages.CreateCollection | messages.UpdateCollection) -> dict[str, Any]:
    """Return the users' JSON that a request stores with a collection."""
    return {key: from_value(value) for key, value in request.metadata.items()}
