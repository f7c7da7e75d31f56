"""The one place where a gRPC status becomes an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
from gmvaluator.v1.attribution_pb2 import AttributeFailure

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

_BY_NUMBER = {code.value[0]: kind for code, kind in _ERRORS.items()}


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise our error for a failed call to the attributor at `address`, with the server's own words."""
    try:
        yield
    except grpc.RpcError as error:
        raise _ours(error, address) from error


def failure_of(failure: AttributeFailure, address: str) -> GmvaluatorError:
    """Our error for an image of a stream that failed."""
    kind = _BY_NUMBER.get(failure.code, Failure)
    return kind(f"{failure.message} (attributor at {address})")


def _ours(error: grpc.RpcError, address: str) -> GmvaluatorError:
    message = f"{error.details() or 'no details'} (attributor at {address})"
    kind = _ERRORS.get(error.code(), Failure)
    if kind is Overloaded:
        return Overloaded(message, _pushback_ms(error))
    return kind(message)


def _pushback_ms(error: grpc.RpcError) -> int | None:
    """What the server asks for; a negative number means: not again. None if it asks for nothing that can be read."""
    trailing: Any = error.trailing_metadata() or ()
    told = dict(trailing).get("grpc-retry-pushback-ms")
    try:
        return None if told is None else int(told)
    except ValueError:
        return -1
