"""The schema in the terms of qdrant-client."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from gmvaluator.index.quantisation import PRODUCT, SCALAR, TURBO
from gmvaluator.index.schema import (
    FULL_SCAN_THRESHOLD_KB,
    HNSW_EF_CONSTRUCT,
    INDEXING_THRESHOLD_KB,
    MAX_SEGMENT_KB,
    PERCEPTUAL,
    RECALL,
    SEGMENTS,
    CollectionMetadata,
    SearchSettings,
)


def collection_parameters(metadata: CollectionMetadata) -> dict[str, Any]:
    """Arguments of qdrant-client's `create_collection`.

    Nothing is indexed until the first build lowers the threshold: a server would train its quantisation again
    and again while points still come.
    """
    return {
        "vectors_config": {
            RECALL: models.VectorParams(
                size=metadata.profile.recall_dim,
                distance=models.Distance.COSINE,
                on_disk=metadata.settings.on_disk,
                hnsw_config=_hnsw(metadata.settings.hnsw_m, metadata.settings.hnsw_ef_construct),
                quantization_config=_quantisation(metadata.quantisation),
            ),
            PERCEPTUAL: models.VectorParams(
                size=metadata.profile.perceptual_dim,
                distance=models.Distance.COSINE,
                on_disk=True,
                hnsw_config=_hnsw(0, HNSW_EF_CONSTRUCT),
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        },
        "optimizers_config": models.OptimizersConfigDiff(
            indexing_threshold=0, default_segment_number=SEGMENTS, max_segment_size=MAX_SEGMENT_KB
        ),
        "metadata": metadata.as_dict(),
        **metadata.settings.cluster,
    }


def rebuild_parameters(metadata: CollectionMetadata) -> dict[str, Any]:
    """Arguments of qdrant-client's `update_collection` by which an embedded engine rebuilds a collection.

    Nothing of what was deleted is kept: that is what a threshold of 0 says.
    """
    settings = metadata.settings
    change = models.VectorParamsDiff(
        hnsw_config=_hnsw(settings.hnsw_m, settings.hnsw_ef_construct),
        quantization_config=_quantisation(metadata.quantisation),
        on_disk=settings.on_disk,
    )
    return {
        "vectors_config": {RECALL: change},
        "optimizers_config": models.OptimizersConfigDiff(
            deleted_threshold=0.0, indexing_threshold=INDEXING_THRESHOLD_KB
        ),
        "metadata": metadata.as_dict(),
    }


def _hnsw(edges: int, ef_construct: int) -> models.HnswConfigDiff:
    return models.HnswConfigDiff(m=edges, ef_construct=ef_construct, full_scan_threshold=FULL_SCAN_THRESHOLD_KB)


def _quantisation(name: str) -> models.QuantizationConfig:
    if name in PRODUCT:
        ratio = models.CompressionRatio(f"x{PRODUCT[name]}")
        return models.ProductQuantization(product=models.ProductQuantizationConfig(compression=ratio, always_ram=True))
    if name == SCALAR:
        int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        return models.ScalarQuantization(scalar=int8)
    bits = models.TurboQuantBitSize(f"bits{TURBO[name]}")
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))


def search_parameters(search: SearchSettings, exact: bool = False) -> models.SearchParams:
    """How a query on `recall` is answered; exact compares with every original."""
    if exact:
        return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    return models.SearchParams(
        hnsw_ef=search.hnsw_ef,
        quantization=models.QuantizationSearchParams(rescore=search.rescore, oversampling=search.oversampling),
    )
