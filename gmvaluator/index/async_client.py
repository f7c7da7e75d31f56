"""An asynchronous connection over grpc.aio that retries calls and restarts a dead embedded engine.

It does for an event loop what `resilient_client` does for threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import grpc
from qdrant_client import grpc as messages

from gmvaluator.concurrency import shield_to_completion
from gmvaluator.errors import IndexUnavailable
from gmvaluator.index.location import Access, Endpoint
from gmvaluator.index.qdrant import translate_errors
from gmvaluator.index.resilient_client import backoff_s, is_retryable

CALL_TIMEOUT_S = 10.0
"""Deadline of one call including its retries, in seconds; a query usually takes 2 ms."""

_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True)
class Channel:
    """A gRPC channel to an endpoint, with its stubs."""

    endpoint: Endpoint
    channel: grpc.aio.Channel
    points: Any
    collections: Any

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return the keyword arguments of one call."""
        key = self.endpoint.api_key
        return {"timeout": timeout_s, "metadata": () if key is None else (("api-key", key),)}


class AsyncIndexConnection:
    """A connection to an index that retries failed calls, for one event loop.

    A call that finds the embedded engine dead is sent to the restarted engine; other failures are retried as in
    `resilient_client`. Every call must therefore be idempotent.
    """

    def __init__(self, access: Access, subject: str) -> None:
        """subject: what the calls concern, for error messages."""
        self._access = access
        self._subject = subject
        self._lock = asyncio.Lock()
        self._channel: Channel | None = None
        self._retired: list[Channel] = []

    async def call(self, call: Callable[[Channel, Mapping[str, Any]], Awaitable[_Response]]) -> _Response:
        """Return the response of `call`; its retries and their backoff share one deadline.

        call: makes the call on the channel, with the given keyword arguments. Raises only the product's errors.
        """
        channel = await self._connect(None)  # waits while another call restarts the engine
        deadline = time.monotonic() + CALL_TIMEOUT_S
        for attempt in count(1):
            try:
                with translate_errors(self._name_of(channel)):
                    # grpc.aio leaks the messages of cancelled calls.
                    return await shield_to_completion(call(channel, channel.options(deadline - time.monotonic())))
            except IndexUnavailable as error:
                broken, pause = channel, backoff_s(attempt)
                channel = await self._connect(broken)
                if channel is not broken and attempt == 1:
                    deadline = time.monotonic() + CALL_TIMEOUT_S  # the restart does not count against the query
                elif is_retryable(error, attempt) and time.monotonic() + pause < deadline:
                    await asyncio.sleep(pause)
                else:
                    raise
        raise AssertionError("unreachable")

    async def _connect(self, broken: Channel | None) -> Channel:
        """Return the channel in use, opened if there is none, or a new one if the engine of `broken` has moved."""
        async with self._lock:
            if self._channel is None:
                self._channel = _open(self._access.endpoint)
            elif self._channel is broken:
                endpoint = await asyncio.to_thread(self._access.renew, broken.endpoint)
                if endpoint != broken.endpoint:
                    self._retired.append(broken)  # closing it would cancel calls in flight
                    self._channel = _open(endpoint)
            return self._channel

    async def close(self) -> None:
        """Close the connection. An embedded engine ends after its last user. Idempotent."""
        for channel in filter(None, (*self._retired, self._channel)):
            await channel.channel.close()
        self._retired, self._channel = [], None
        self._access.close()

    @property
    def name(self) -> str:
        """The index and the subject, for error messages."""
        return f"the index ({self._subject})" if self._channel is None else self._name_of(self._channel)

    def _name_of(self, channel: Channel) -> str:
        return f"the index at {channel.endpoint.target} ({self._subject})"


def _open(endpoint: Endpoint) -> Channel:
    options = [("grpc.max_receive_message_length", -1), *endpoint.channel_options.items()]
    if endpoint.tls:
        channel = grpc.aio.secure_channel(endpoint.target, grpc.ssl_channel_credentials(), options)
    else:
        channel = grpc.aio.insecure_channel(endpoint.target, options)
    points = messages.PointsStub(channel)  # type: ignore[no-untyped-call]
    collections = messages.CollectionsStub(channel)  # type: ignore[no-untyped-call]
    return Channel(endpoint, channel, points, collections)
