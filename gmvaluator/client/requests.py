"""What both clients share and no transport is needed for: requests, and when to ask again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from gmvaluator.errors import GmvaluatorError, ImageTooLarge, Overloaded, Unavailable
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.v1 import attribution_pb2 as attribution_v1

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
