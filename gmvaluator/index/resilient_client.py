"""A qdrant-client that retries calls and restarts a dead embedded engine.

Every call of this product is idempotent: reads change nothing, and writes state a point's new value rather than a
difference. A call that exceeded its deadline is not retried, because retries would add load to an index that is already
too slow.
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
from gmvaluator.index.qdrant import connect, translate_errors

MAX_ATTEMPTS = 4
"""Maximum number of attempts per call, the first included."""

FIRST_BACKOFF_S = 0.1
"""Mean backoff after the first attempt, in seconds."""

_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})
_jitter = random.SystemRandom()


def is_retryable(error: IndexUnavailable, attempt: int) -> bool:
    """Return whether a call whose attempt number `attempt` (from 1) failed with `error` may be retried."""
    cause = error.__cause__
    return attempt < MAX_ATTEMPTS and isinstance(cause, grpc.RpcError) and cause.code() in _RETRYABLE


def backoff_s(attempt: int) -> float:
    """Return the seconds to wait after attempt number `attempt`: exponential backoff with jitter."""
    return FIRST_BACKOFF_S * 2.0 ** (attempt - 1) * _jitter.uniform(0.5, 1.5)


_Answer = TypeVar("_Answer")


class IndexConnection:
    """A connection to an index that retries failed calls. Thread-safe.

    A call that finds the embedded engine dead is sent to the restarted engine; a call that fails with UNAVAILABLE or
    ABORTED is retried with backoff. Every call must therefore be idempotent.
    """

    def __init__(self, access: Access, subject: str) -> None:
        """subject: what the calls concern, for error messages."""
        self._access = access
        self._subject = subject
        self._lock = threading.Lock()
        self._endpoint = access.endpoint
        self._client = connect(self._endpoint)
        self._retired: list[QdrantClient] = []

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint in use."""
        return self._endpoint

    @property
    def embedded(self) -> bool:
        """Whether the index is served by the embedded engine, which swaps generations by itself."""
        return self._access.embedded

    def call(self, call: Callable[[QdrantClient], _Answer]) -> _Answer:
        """Return the result of `call`, with retries. Raises only the product's errors."""
        for attempt in count(1):
            client, endpoint = self._client, self._endpoint
            try:
                with translate_errors(self._name()):
                    return call(client)
            except IndexUnavailable as error:
                # A restarted engine needs no backoff: it serves by the time its endpoint is known.
                moved = attempt == 1 and self._reconnect(endpoint)
                if not moved and not is_retryable(error, attempt):
                    raise
                if not moved:
                    time.sleep(backoff_s(attempt))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connection. An embedded engine ends after its last user. Idempotent."""
        for client in (*self._retired, self._client):
            client.close()
        self._access.close()

    def _reconnect(self, broken: Endpoint) -> bool:
        """Reconnect if the index has moved away from `broken`; return whether it has."""
        with self._lock:
            if self._endpoint == broken:
                endpoint = self._access.renew(broken)
                if endpoint == broken:
                    return False
                self._retired.append(self._client)  # other threads may still be using it
                self._endpoint, self._client = endpoint, connect(endpoint)
            return True

    def _name(self) -> str:
        return f"the index at {self._endpoint.target} ({self._subject})"
