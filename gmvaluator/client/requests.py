"""What both clients share and no transport is needed for: requests, and when to ask again.

The one place where a gRPC status becomes an error of ours.
"""

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
_MAX_DOUBLINGS = 64
"""Of a pause: no pause is that long, and a float has no room for many more."""

Content = bytes | attribution_v1.Embedding
"""File bytes of an image, or what `ImageEmbedder` made of it."""


def attribute_request(
    content: Content, generation_id: str, model_version: str, generated_at: datetime | None
) -> attribution_v1.AttributeRequest:
    """What is sent to Attribute and AttributeStream. Raises ImageTooLarge before anything is sent."""
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
    """What is sent to Preview. Raises ImageTooLarge before anything is sent."""
    check_size(image)
    return attribution_v1.PreviewRequest(model_version=model_version, image=image, policy=policy)


class StreamRequests:
    """Requests of one stream. gRPC would end the whole call, without a name, for what fails while they are made.

    That is kept here for whoever reads the answers, who may be another thread.
    """

    def __init__(self, model_version: str) -> None:
        self._model_version = model_version
        self._refused: deque[tuple[str, GmvaluatorError]] = deque()
        self._broken: Exception | None = None

    def request(self, generation_id: str, content: Content) -> Iterator[attribution_v1.AttributeStreamRequest]:
        """What is sent for one image: nothing if it cannot be sent."""
        try:
            request = attribute_request(content, generation_id, self._model_version, None)
        except GmvaluatorError as error:
            self._refused.append((generation_id, error))
        else:
            yield attribution_v1.AttributeStreamRequest(request=request)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around the reading of the caller's images: what they raise ends them, and is for `check`."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again by `check`
            self._broken = error

    def refused(self) -> Iterator[tuple[str, GmvaluatorError]]:
        """Images that could not be sent, each told once."""
        while self._refused:
            yield self._refused.popleft()

    def check(self) -> None:
        """Raises what the caller's images raised."""
        if self._broken is not None:
            raise self._broken


def check_size(image: bytes) -> None:
    """Raises ImageTooLarge before anything is sent."""
    if len(image) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"the image has {len(image):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: send a smaller one")


@dataclass(frozen=True, slots=True)
class Retries:
    """When a call is made again: only after Overloaded and Unavailable, and with the same id, so it is credited once.

    attempts: calls in all; 1 never asks again. A server that says how long to wait is waited for; otherwise the pause
    doubles from `first_pause_s` to `longest_pause_s`, less a random half, so that callers do not come back together.
    """

    attempts: int = 5
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0

    def pause_s(self, error: GmvaluatorError, attempt: int, left_s: float) -> float | None:
        """Seconds to wait after the `attempt`-th call (from 1) failed; None if the error is to be raised.

        left_s: until the caller's deadline, which no pause goes beyond.
        """
        if attempt >= self.attempts or not isinstance(error, Overloaded | Unavailable):
            return None
        told_ms = error.retry_after_ms if isinstance(error, Overloaded) else None
        if told_ms is not None and told_ms < 0:
            return None
        usual = min(self.first_pause_s * 2 ** min(attempt - 1, _MAX_DOUBLINGS), self.longest_pause_s)
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers, keeps no secret
        pause = usual * spread if told_ms is None else told_ms / 1000 * (2 - spread)
        return pause if pause < left_s else None


NO_RETRIES = Retries(attempts=1)


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
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
