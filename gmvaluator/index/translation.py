"""The only place where an exception of grpc or qdrant-client becomes one of the product's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
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

_Status = grpc.StatusCode
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
    _Status.INTERNAL: (IndexFailed, "see the index's log"),
    _Status.UNKNOWN: (IndexFailed, "see the index's log"),
    _Status.DATA_LOSS: (IndexFailed, "see the index's log"),
}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what grpc and qdrant-client raise inside as an error of the product about `what`."""
    try:
        yield
    except grpc.RpcError as error:
        raise _of_status(what, error) from error
    except ResourceExhaustedResponse as error:
        raise Overloaded(f"{what} refuses for now: send it again after {error.retry_after_s} s") from error
    except (QdrantException, ApiException) as error:
        raise IndexFailed(f"{what} failed: {error}") from error


def _of_status(what: str, error: grpc.RpcError) -> GmvaluatorError:
    kind, advice = STATUS_ERRORS.get(error.code(), (IndexFailed, "see the index's log"))
    return kind(f"{what} answered {error.code().name}: {error.details()}; {advice}")
