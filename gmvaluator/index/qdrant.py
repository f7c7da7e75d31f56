"""Adapter to qdrant-client: connection, request parameters, collection info and error translation.

This is the only module that turns exceptions of grpc and qdrant-client into the product's errors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException

from gmvaluator.errors import (
    Conflict,
    GmvaluatorError,
    IndexFailed,
    IndexUnavailable,
    InvalidInput,
    MissingIndex,
    Overloaded,
    PreconditionFailed,
)
from gmvaluator.index.engine.quantisation import PRODUCT, SCALAR, TURBO
from gmvaluator.index.location import Endpoint
from gmvaluator.index.schema import (
    FULL_SCAN_THRESHOLD_KB,
    HNSW_EF_CONSTRUCT,
    INDEXING_THRESHOLD_KB,
    KEY_DATA_SET,
    MAX_SEGMENT_KB,
    PERCEPTUAL,
    RECALL,
    SEGMENTS,
    CollectionMetadata,
    SearchSettings,
)
from gmvaluator.ports import CollectionInfo

CALL_TIMEOUT_S = 60
"""Deadline of one call, in seconds. Long, because the engine blocks writes while it copies files for a build."""

_Status = grpc.StatusCode
_SEE_LOG = "see the index's log"
STATUS_ERRORS: dict[grpc.StatusCode, tuple[type[GmvaluatorError], str]] = {
    _Status.UNAVAILABLE: (IndexUnavailable, "is it running, and is the address right?"),
    _Status.DEADLINE_EXCEEDED: (IndexUnavailable, "it did not answer in time: is the machine overloaded?"),
    _Status.CANCELLED: (IndexUnavailable, "the call was cut off: try again"),
    _Status.ABORTED: (IndexUnavailable, "the call was cut off: try again"),
    _Status.UNAUTHENTICATED: (PreconditionFailed, "the API key is not accepted: set QDRANT_API_KEY"),
    _Status.PERMISSION_DENIED: (PreconditionFailed, "the API key does not allow this: set QDRANT_API_KEY"),
    _Status.UNIMPLEMENTED: (PreconditionFailed, "this index cannot do that"),
    _Status.FAILED_PRECONDITION: (PreconditionFailed, "the collection's settings do not allow this"),
    _Status.NOT_FOUND: (MissingIndex, "index images first: gmvaluator index add"),
    _Status.ALREADY_EXISTS: (Conflict, "choose another name"),
    _Status.INVALID_ARGUMENT: (InvalidInput, "the request is refused"),
    _Status.OUT_OF_RANGE: (InvalidInput, "the request is refused"),
    _Status.RESOURCE_EXHAUSTED: (Overloaded, "send it again after a pause"),
    _Status.INTERNAL: (IndexFailed, _SEE_LOG),
    _Status.UNKNOWN: (IndexFailed, _SEE_LOG),
    _Status.DATA_LOSS: (
        IndexFailed,
        "restore the index from a backup; `gmvaluator index verify --deep` lists all that is damaged",
    ),
}
"""The product's error, and the advice in its message, for each gRPC status of the index."""


@contextmanager
def translate_errors(subject: str) -> Iterator[None]:
    """Turn exceptions of grpc and qdrant-client into the product's errors about `subject`."""
    try:
        yield
    except grpc.RpcError as error:
        raise _status_error(subject, error) from error
    except ResourceExhaustedResponse as error:
        raise Overloaded(f"{subject} refuses for now: send it again after {error.retry_after_s} s") from error
    except (QdrantException, ApiException) as error:
        raise IndexFailed(f"{subject} failed: {error}") from error


def _status_error(subject: str, error: grpc.RpcError) -> GmvaluatorError:
    kind, advice = STATUS_ERRORS.get(error.code(), (IndexFailed, _SEE_LOG))
    return kind(f"{subject} answered {error.code().name}: {error.details()}; {advice}")


def connect(endpoint: Endpoint) -> QdrantClient:
    """Return a client that uses gRPC only."""
    with warnings.catch_warnings():
        # The warning does not apply to a Unix socket, which nobody else can read.
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        return QdrantClient(
            host=endpoint.host,
            # qdrant-client joins host and port by a colon, as in unix:PATH.
            grpc_port=cast(int, endpoint.port),
            https=endpoint.tls,
            api_key=endpoint.api_key,
            prefer_grpc=True,
            timeout=CALL_TIMEOUT_S,
            check_compatibility=False,
            grpc_options=endpoint.channel_options,
            pool_size=1,
        )


def collection_parameters(metadata: CollectionMetadata) -> dict[str, Any]:
    """Return the arguments of qdrant-client's `create_collection`."""
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
        # No indexing until the first build: a server would retrain its quantisation while points still arrive.
        "optimizers_config": models.OptimizersConfigDiff(
            indexing_threshold=0, default_segment_number=SEGMENTS, max_segment_size=MAX_SEGMENT_KB
        ),
        "metadata": metadata.as_dict(),
        **metadata.settings.cluster,
    }


def rebuild_parameters(metadata: CollectionMetadata) -> dict[str, Any]:
    """Return the arguments of qdrant-client's `update_collection` that make an embedded engine rebuild a collection.

    A deleted_threshold of 0 requests a rebuild that keeps nothing of deleted points.
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
    """Return the parameters of a query on `recall`. exact: compare with every original vector."""
    if exact:
        return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    return models.SearchParams(
        hnsw_ef=search.hnsw_ef,
        quantization=models.QuantizationSearchParams(rescore=search.rescore, oversampling=search.oversampling),
    )


def data_set_filter(data_sets: Sequence[str]) -> models.Filter | None:
    """Return the filter for the images of any of `data_sets`; None if there are none."""
    if not data_sets:
        return None
    return models.Filter(must=[models.FieldCondition(key=KEY_DATA_SET, match=models.MatchAny(any=list(data_sets)))])


def collection_info(name: str, answer: models.CollectionInfo) -> CollectionInfo:
    """Convert qdrant-client's description of collection `name`."""
    vectors = answer.config.params.vectors
    # indexed_vectors_count is summed over the named vectors of a point.
    points, indexed = answer.points_count or 0, answer.indexed_vectors_count or 0
    return CollectionInfo(
        name=name,
        points=points,
        indexed_points=min(points, indexed // max(1, len(vectors) if isinstance(vectors, dict) else 1)),
        ready=answer.status == models.CollectionStatus.GREEN
        and (points == 0 or bool(answer.config.optimizer_config.indexing_threshold)),
        metadata=answer.config.metadata or {},
    )
