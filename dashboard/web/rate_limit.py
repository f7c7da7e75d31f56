"""A limit on how often something may happen within a period of time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable


class RateLimit:
    """A limit on the events of the last `period_s` seconds, all clients together. Thread-safe."""

    def __init__(self, limit: int, period_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._period_s = period_s
        self._clock = clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Count an event; return False, without counting it, if `limit` events were counted in the period."""
        with self._lock:
            now = self._clock()
            while self._times and now - self._times[0] >= self._period_s:
                self._times.popleft()
            if len(self._times) >= self._limit:
                return False
            self._times.append(now)
            return True
