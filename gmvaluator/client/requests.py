"""Requests, retries and errors of both clients, without a transport. gRPC statuses become our errors here alone."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from gmvaluator.client.unreachable import explanation
from gmvaluator.errors import (
    Conflict,
    Failure,
    Forbidden,
    GmvaluatorError,
    ImageTooLarge,
    InvalidInput,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
)
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1.attribution_pb2 import AttributeFailure

SERVICE = "gmvaluator.v1.AttributionService"
DEADLINE_S = 60.0
"""Default timeout of a call, with its retries."""

_MAX_DOUBLINGS = 64
"""Doublings of a pause. No pause is that long, and some more would exceed a float."""

Content = bytes | attribution_v1.Embedding
"""File bytes of an image, or its embedding by `ImageEmbedder`."""


def attribute_request(
    content: Content, generation_id: str, model_version: str, generated_at: datetime | None
) -> attribution_v1.AttributeRequest:
    """Build a request of Attribute or AttributeStream.

    Raises ImageTooLarge, and InvalidInput for a time without a zone, before anything is sent.
    """
    request = attribution_v1.AttributeRequest(
        generation_id=generation_id, model_version=model_version, generated_at=_stamp(generated_at)
    )
    if isinstance(content, bytes):
        check_size(content)
        request.image = content
    else:
        request.embedding.CopyFrom(content)
    return request


def preview_request(image: bytes, model_version: str, policy: str) -> attribution_v1.PreviewRequest:
    """Build a request of Preview. Raises ImageTooLarge before anything is sent."""
    check_size(image)
    return attribution_v1.PreviewRequest(model_version=model_version, image=image, policy=policy)


class StreamRequests:
    """Requests of one stream, and the errors raised while they were built.

    An exception raised in a stream's request iterator makes gRPC end the whole call without naming it. So errors are
    stored here for the reader of the answers, which may be another thread.
    """

    def __init__(self, model_version: str) -> None:
        self._model_version = model_version
        self._refused: deque[tuple[str, GmvaluatorError]] = deque()
        self._error: Exception | None = None

    def request(self, generation_id: str, content: Content) -> Iterator[attribution_v1.AttributeStreamRequest]:
        """Yield the request of one image, or nothing if it cannot be sent; `refused` then yields its error."""
        try:
            request = attribute_request(content, generation_id, self._model_version, None)
        except GmvaluatorError as error:
            self._refused.append((generation_id, error))
        else:
            yield attribution_v1.AttributeStreamRequest(request=request)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Store an exception that reading the caller's images raises, for `check`."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again by `check`
            self._error = error

    def refused(self) -> Iterator[tuple[str, GmvaluatorError]]:
        """Yield the images that could not be sent since the last call, with their errors."""
        while self._refused:
            yield self._refused.popleft()

    def check(self) -> None:
        """Raise the exception that reading the caller's images raised, if any."""
        if self._error is not None:
            raise self._error


def check_size(image: bytes) -> None:
    """Raise ImageTooLarge if the attributor would refuse an image for its size."""
    if len(image) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"the image has {len(image):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: send a smaller one")


@dataclass(frozen=True, slots=True)
class Retries:
    """The retry policy of a client. Only Overloaded and Unavailable are retried, with the same id: credited once.

    attempts: calls in all; 1 never retries. overload_attempts: the same where the server refuses for load alone; 0: as
    many as `attempts`. If the server names a pause, that is used; otherwise the pause doubles from `first_pause_s` to
    `longest_pause_s`. Up to half of it is taken off at random, so that clients that failed together do not return
    together.
    """

    attempts: int = 5
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    overload_attempts: int = 0

    def pause_s(self, error: GmvaluatorError, attempt: int, left_s: float) -> float | None:
        """Return the seconds to wait after the `attempt`-th call (from 1) failed; None to raise the error.

        left_s: seconds until the caller's deadline; a pause that would exceed it is None.
        """
        if not isinstance(error, Overloaded | Unavailable):
            return None
        attempts = self.overload_attempts if isinstance(error, Overloaded) else 0
        if attempt >= (attempts or self.attempts):
            return None
        pushback_ms = error.retry_after_ms if isinstance(error, Overloaded) else None
        # gRPC's convention: a negative pushback forbids a retry.
        if pushback_ms is not None and pushback_ms < 0:
            return None
        usual_s = min(self.first_pause_s * 2 ** min(attempt - 1, _MAX_DOUBLINGS), self.longest_pause_s)
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers, keeps no secret
        # The server's pause is a minimum, so it is lengthened at random, not shortened.
        pause_s = usual_s * spread if pushback_ms is None else pushback_ms / 1000 * (2 - spread)
        return pause_s if pause_s < left_s else None


NO_RETRIES = Retries(attempts=1)

WATCH_RETRIES = Retries(attempts=1_000_000_000)
"""Retries of a watch that resumes: it reconnects for as long as it takes."""


def with_zone(moment: datetime) -> datetime:
    """Return `moment`. Raises InvalidInput unless it is a datetime with a time zone."""
    # Timestamp would take a time without a zone for UTC, and astimezone for local time. Near the end of a month either
    # would credit another month than the caller meant.
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidInput(
            f"generated_at {str(moment)[:40]!r} has no time zone: give a datetime with one, such as "
            "datetime.now(timezone.utc)"
        )
    return moment


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(with_zone(moment))
    return stamp


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
    grpc.StatusCode.UNIMPLEMENTED: PreconditionFailed,
}

_BY_NUMBER = {code.value[0]: kind for code, kind in _ERRORS.items()}


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Translate a failed call to the attributor at `address` into our error, with the server's message."""
    try:
        yield
    except grpc.RpcError as error:
        raise _error_of(error, address) from error


def failure_of(failure: AttributeFailure, address: str) -> GmvaluatorError:
    """Return the error of an image of a stream that failed."""
    kind = _BY_NUMBER.get(failure.code, Failure)
    return kind(f"{failure.message} (attributor at {address})")


def _error_of(error: grpc.RpcError, address: str) -> GmvaluatorError:
    kind = _ERRORS.get(error.code(), Failure)
    unreached = explanation(error.code(), error.details() or "", address)
    if unreached is not None:
        return kind(unreached)
    message = f"{error.details() or 'no details'} (attributor at {address})"
    if kind is Overloaded:
        return Overloaded(message, _pushback_ms(error))
    return kind(message)


def _pushback_ms(error: grpc.RpcError) -> int | None:
    """Return the server's pause before a retry, negative to forbid one, None if it names none."""
    trailing: Any = error.trailing_metadata() or ()
    pushback = dict(trailing).get("grpc-retry-pushback-ms")
    try:
        return None if pushback is None else int(pushback)
    except ValueError:
        # gRPC's own clients also treat a value that is no number as "do not retry".
        return -1
