"""Calls to an index through qdrant-client, on a server or on an embedded engine that may have to be started again.

When a call to the index is made again: where no harm comes of it, and the index did not say that it is slow.

Every call of ours can be repeated without harm: reads change nothing, and writes say what a point is to be, not by how
much it is to change. A call that ran into its deadline is not repeated, as that would add to what made it late.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import grpc
from qdrant_client import QdrantClient

from gmvaluator.errors import IndexUnavailable
from gmvaluator.index.location import Access, Endpoint
from gmvaluator.index.qdrant import connect, translated

ATTEMPTS = 4
"""Times a call is made at most."""

FIRST_PAUSE_S = 0.1
_REPEATED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})
_jitter = random.SystemRandom()


def may_be_repeated(error: IndexUnavailable, attempt: int) -> bool:
    """Whether attempt number `attempt`, from 1, that ended so may be followed by another."""
    cause = error.__cause__
    return attempt < ATTEMPTS and isinstance(cause, grpc.RpcError) and cause.code() in _REPEATED


def pause_s(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt`: each time twice as long, and no two callers alike."""
    return FIRST_PAUSE_S * 2.0 ** (attempt - 1) * _jitter.uniform(0.5, 1.5)


_Answer = TypeVar("_Answer")


class IndexConnection:
    """Thread-safe. A call that finds an embedded engine dead is made once more on the one that takes its place, and one
    that a server turned away is repeated (see `retrying`), so every call has to be one that can be repeated without
    harm."""

    def __init__(self, access: Access, subject: str) -> None:
        """subject: what the calls are about, for messages."""
        self._access = access
        self._subject = subject
        self._lock = threading.Lock()
        self._endpoint = access.endpoint
        self._client = connect(self._endpoint)
        self._retired: list[QdrantClient] = []

    @property
    def endpoint(self) -> Endpoint:
        """Where the index was last reached."""
        return self._endpoint

    @property
    def embedded(self) -> bool:
        """Whether it is an engine of our own, which swaps generations by itself."""
        return self._access.embedded

    def call(self, call: Callable[[QdrantClient], _Answer]) -> _Answer:
        """Answer of `call`. Raises the product's errors only."""
        for attempt in count(1):
            client, endpoint = self._client, self._endpoint
            try:
                with translated(self._name()):
                    return call(client)
            except IndexUnavailable as error:
                moved = attempt == 1 and self._reconnect(endpoint)
                if not moved and not may_be_repeated(error, attempt):
                    raise
                if not moved:
                    time.sleep(pause_s(attempt))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the index; an embedded engine ends when nobody else holds it. Harmless when done twice."""
        for client in (*self._retired, self._client):
            client.close()
        self._access.close()

    def _reconnect(self, broken: Endpoint) -> bool:
        """Whether the index is at another address now."""
        with self._lock:
            if self._endpoint == broken:
                endpoint = self._access.renew(broken)
                if endpoint == broken:
                    return False
                self._retired.append(self._client)  # other threads may be using it yet
                self._endpoint, self._client = endpoint, connect(endpoint)
            return True

    def _name(self) -> str:
        return f"the index at {self._endpoint.target} ({self._subject})"
