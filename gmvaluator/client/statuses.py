"""The one place where a gRPC status becomes an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from gmvaluator.errors import (
    Conflict,
    Failure,
    Forbidden,
    GmvaluatorError,
    InvalidInput,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
)

_ERRORS: dict[grpc.StatusCode, type[GmvaluatorError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise our error for a failed call to the attributor at `address`, with the server's own words."""
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or "no details"
        raise _ERRORS.get(code, Failure)(f"{details} (attributor at {address})") from error
