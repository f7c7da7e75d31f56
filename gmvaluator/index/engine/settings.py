"""Storage settings of a collection, as the engine writes them to disk, and their conversion to qdrant-edge.

The module does not import grpc, so that the build process, which needs only these settings, starts quickly.
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
    """Settings of a vector's HNSW graph.

    m: edges per node, 0 for no graph. ef_construct: candidates considered for each edge. full_scan_threshold_kb:
    filtered sets whose vectors are smaller are scanned instead of searched through the graph.
    """

    m: int = 16
    ef_construct: int = 100
    full_scan_threshold_kb: int = 10_000


@dataclass(frozen=True, slots=True)
class VectorSettings:
    """Settings of a named vector.

    size: dimensions. distance: a key of `DISTANCES`. on_disk: originals are read from disk. quantisation: a key of
    `quantisation.RATIOS`, or None. codes_in_ram: codes are pinned in memory. several: a point has a list of such
    vectors, and its similarity to a query is that of the most similar one.
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
    """Settings of a collection.

    vectors: by name. segments: number of segments that a build aims at. max_segment_kb: their largest size, or None.
    indexing_threshold_kb: size of the unindexed vectors from which a build indexes them; 0 never does.
    """

    vectors: Mapping[str, VectorSettings]
    segments: int
    max_segment_kb: int | None
    indexing_threshold_kb: int

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON value."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CollectionSettings:
        """Parse the value of `as_dict`."""
        vectors = {name: _vector_from_dict(vector) for name, vector in value["vectors"].items()}
        return cls(**{**value, "vectors": vectors})

    def needs_build(self, unindexed_points: int) -> bool:
        """Return whether qdrant-edge would index this many unindexed points."""
        largest_bytes = max(vector.size for vector in self.vectors.values()) * BYTES_PER_FLOAT
        threshold_bytes = self.indexing_threshold_kb * 1024
        return unindexed_points > 0 and 0 < threshold_bytes <= unindexed_points * largest_bytes

    def edge_config(self) -> edge.EdgeConfig:
        """Return the configuration for qdrant-edge."""
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
