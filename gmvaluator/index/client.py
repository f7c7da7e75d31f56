"""qdrant-client, set up to speak gRPC only, and its description of a collection in the product's terms."""

from __future__ import annotations

import warnings

from qdrant_client import QdrantClient, models

from gmvaluator.index.location import Endpoint
from gmvaluator.ports import CollectionInfo

CALL_TIMEOUT_S = 60
"""Deadline of one call. Long, because the engine holds writes while it copies files for a build."""


def connect(endpoint: Endpoint) -> QdrantClient:
    """A client that speaks gRPC only."""
    with warnings.catch_warnings():
        # On loopback the key is no secret from anybody who could read the traffic.
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        return QdrantClient(
            host=endpoint.host,
            grpc_port=endpoint.port,
            https=endpoint.tls,
            api_key=endpoint.api_key,
            prefer_grpc=True,
            timeout=CALL_TIMEOUT_S,
            check_compatibility=False,
            grpc_options=endpoint.channel_options,
            pool_size=1,
        )


def collection_info(name: str, answer: models.CollectionInfo) -> CollectionInfo:
    """qdrant-client's answer in the product's terms."""
    vectors = answer.config.params.vectors
    points, indexed = answer.points_count or 0, answer.indexed_vectors_count or 0
    return CollectionInfo(
        name=name,
        points=points,
        indexed_points=min(points, indexed // max(1, len(vectors) if isinstance(vectors, dict) else 1)),
        ready=answer.status == models.CollectionStatus.GREEN
        and (points == 0 or bool(answer.config.optimizer_config.indexing_threshold)),
        metadata=answer.config.metadata or {},
    )
