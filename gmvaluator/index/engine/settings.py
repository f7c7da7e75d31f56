"""How one collection is stored, as the engine keeps it on disk; and the same in the terms of qdrant-edge.

Knows nothing of gRPC, so that the build process, which needs these settings alone, starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import qdrant_edge as edge

from gmvaluator.index.engine.quantisation import PRODUCT, SCALAR, TURBO

BYTES_PER_FLOAT = 4
DISTANCES = {
    "cosine": edge.Distance.Cosine,
    "dot": edge.Distance.Dot,
    "euclid": edge.Distance.Euclid,
    "manhattan": edge.Distance.Manhattan,
}
_COMPRESSIONS = {
    4: edge.CompressionRatio.X4,
    8: edge.CompressionRatio.X8,
    16: edge.CompressionRatio.X16,
    32: edge.CompressionRatio.X32,
    64: edge.CompressionRatio.X64,
}
_TURBO_BITS = {2: edge.TurboQuantBitSize.Bits2, 4: edge.TurboQuantBitSize.Bits4}

EdgeQuantisation = edge.ProductQuantizationConfig | edge.ScalarQuantizationConfig | edge.TurboQuantQuantizationConfig


@dataclass(frozen=True, slots=True)
class HnswSettings:
    """m: edges per node, 0 for no graph. full_scan_threshold_kb: filtered sets below it are scored one by one."""

    m: int = 16
    ef_construct: int = 100
    full_scan_threshold_kb: int = 10_000


@dataclass(frozen=True, slots=True)
class VectorSettings:
    """One named vector. quantisation: its name in `gmvaluator.index.schema`, or None for none.

    several: a point has a list of such vectors, and its similarity to a query is that of the most similar one.
    """

    size: int
    distance: str
    on_disk: bool
    hnsw: HnswSettings
    quantisation: str | None
    codes_in_ram: bool
    several: bool = False


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """A collection's vectors and when they are indexed.

    indexing_threshold_kb: points are indexed once the vectors that wait reach this size; 0 never indexes.
    """

    vectors: Mapping[str, VectorSettings]
    segments: int
    max_segment_kb: int | None
    indexing_threshold_kb: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CollectionSettings:
        """Inverse of `as_dict`."""
        vectors = {name: _vector_from_dict(vector) for name, vector in value["vectors"].items()}
        return cls(**{**value, "vectors": vectors})

    def waits(self, unindexed_points: int) -> bool:
        """Whether this many unindexed points are enough for qdrant-edge to index them."""
        largest_bytes = max(vector.size for vector in self.vectors.values()) * BYTES_PER_FLOAT
        threshold_bytes = self.indexing_threshold_kb * 1024
        return unindexed_points > 0 and 0 < threshold_bytes <= unindexed_points * largest_bytes

    def edge_config(self) -> edge.EdgeConfig:
        """The same in the terms of qdrant-edge."""
        return edge.EdgeConfig(
            vectors={name: _edge_vector(vector) for name, vector in self.vectors.items()},
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=self.segments,
                max_segment_size=self.max_segment_kb,
                indexing_threshold=self.indexing_threshold_kb,
            ),
        )


def _vector_from_dict(value: Mapping[str, Any]) -> VectorSettings:
    return VectorSettings(**{**value, "hnsw": HnswSettings(**value["hnsw"])})


def _edge_vector(vector: VectorSettings) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        size=vector.size,
        distance=DISTANCES[vector.distance],
        memory=edge.Memory.Cold if vector.on_disk else edge.Memory.Cached,
        hnsw_config=edge.HnswIndexConfig(
            m=vector.hnsw.m,
            ef_construct=vector.hnsw.ef_construct,
            full_scan_threshold=vector.hnsw.full_scan_threshold_kb,
        ),
        quantization_config=_edge_quantisation(vector),
        multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim) if vector.several else None,
    )


def _edge_quantisation(vector: VectorSettings) -> EdgeQuantisation | None:
    if vector.quantisation is None:
        return None
    memory = edge.Memory.Pinned if vector.codes_in_ram else edge.Memory.Cached
    if vector.quantisation in PRODUCT:
        return edge.ProductQuantizationConfig(_COMPRESSIONS[PRODUCT[vector.quantisation]], memory=memory)
    if vector.quantisation == SCALAR:
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=memory)
    return edge.TurboQuantQuantizationConfig(bits=_TURBO_BITS[TURBO[vector.quantisation]], memory=memory)
