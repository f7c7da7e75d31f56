"""Who is let in: a bounded amount of work at once, measured in pixels, and no client crowds out the others."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gmvaluator.errors import Overloaded

CALL_PIXELS = 250_000
"""What a call costs beside its image's pixels: the models' input, vectors and answers are there for any image."""

WANTED_FOR_S = 1.0
"""A client that was refused counts as one of those who share the place, for so long."""

DEFAULT_PUSHBACK_MS = 250
MIN_PUSHBACK_MS, MAX_PUSHBACK_MS = 50, 5_000
_SMOOTHING = 0.1


@dataclass(slots=True)
class _Client:
    """What one client has in flight. wanted_at: when it was last refused or made to wait."""

    calls: int = 0
    pixels: int = 0
    wanted_at: float = -WANTED_FOR_S


@dataclass(slots=True)
class AdmissionCounts:
    """What was decided so far."""

    admitted: int = 0
    refused: int = 0


class Admission:
    """Two bounds on what is in flight, calls and pixels; belongs to one event loop.

    `admit` refuses at once, for unary calls; `wait` waits, for streams, whose clients take turns. While several
    clients ask, each may hold its equal part. A call larger than the whole bound is let in when nothing else is.
    """

    def __init__(self, max_calls: int, max_pixels: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_calls = max_calls
        self._max_pixels = max_pixels
        self._clock = clock
        self._clients: dict[str, _Client] = {}
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()
        self._call_ms = 0.0
        self.calls = 0
        self.pixels = 0
        self.counts = AdmissionCounts()

    @contextmanager
    def admit(self, client: str, pixels: int) -> Iterator[None]:
        """A place for one call. Raises Overloaded, with `retry_after_ms`, if there is none now."""
        cost = CALL_PIXELS + pixels
        if not self._fits(client, cost):
            self._want(client)
            self.counts.refused += 1
            raise Overloaded(
                f"{self.calls} images are being valued, {self._held(client)} of them yours: send this one again later",
                retry_after_ms=self.pushback_ms,
            )
        self._take(client, cost)
        with self._given_back(client, cost):
            yield

    @asynccontextmanager
    async def wait(self, client: str, pixels: int) -> AsyncIterator[None]:
        """A place for one call, once there is one."""
        cost = CALL_PIXELS + pixels
        if self._waiting or not self._fits(client, cost):
            await self._queue(client, cost)
        else:
            self._take(client, cost)
        with self._given_back(client, cost):
            yield

    @property
    def pushback_ms(self) -> int:
        """When to come again: about when half of what is in flight has ended."""
        usual = self._call_ms / 2 if self._call_ms else DEFAULT_PUSHBACK_MS
        return round(min(max(usual, MIN_PUSHBACK_MS), MAX_PUSHBACK_MS))

    @contextmanager
    def _given_back(self, client: str, cost: int) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            ms = (self._clock() - began) * 1000
            self._call_ms += (ms - self._call_ms) * (_SMOOTHING if self._call_ms else 1.0)
            self._release(client, cost)

    async def _queue(self, client: str, cost: int) -> None:
        self._want(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append((cost, turn))
        self._serve_waiting()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(client, cost)
            raise

    def _fits(self, client: str, cost: int) -> bool:
        if self.calls == 0:
            return True
        if self.calls >= self._max_calls or self.pixels + cost > self._max_pixels:
            return False
        mine = self._clients.get(client)
        sharing = self._sharing(client)
        if mine is None or mine.calls == 0 or sharing == 1:
            return True
        return (mine.calls + 1) * sharing <= self._max_calls and (mine.pixels + cost) * sharing <= self._max_pixels

    def _sharing(self, client: str) -> int:
        """How many clients ask for places now, this one included."""
        since = self._clock() - WANTED_FOR_S
        others = (one for name, one in self._clients.items() if name != client)
        return 1 + sum(one.calls > 0 or one.wanted_at > since for one in others)

    def _held(self, client: str) -> int:
        return self._clients[client].calls if client in self._clients else 0

    def _want(self, client: str) -> None:
        self._clients.setdefault(client, _Client()).wanted_at = self._clock()

    def _take(self, client: str, cost: int) -> None:
        mine = self._clients.setdefault(client, _Client())
        mine.calls += 1
        mine.pixels += cost
        self.calls += 1
        self.pixels += cost
        self.counts.admitted += 1

    def _release(self, client: str, cost: int) -> None:
        mine = self._clients[client]
        mine.calls -= 1
        mine.pixels -= cost
        self.calls -= 1
        self.pixels -= cost
        self._serve_waiting()
        self._forget_idle()

    def _serve_waiting(self) -> None:
        """Give freed places to those who wait, one client after the other."""
        for client in list(self._waiting):
            queue = self._waiting[client]
            while queue and queue[0][1].done():
                queue.popleft()
            if queue and self._fits(client, queue[0][0]):
                cost, turn = queue.popleft()
                self._take(client, cost)
                turn.set_result(None)
                self._waiting.move_to_end(client)
            if not queue:
                del self._waiting[client]

    def _forget_idle(self) -> None:
        since = self._clock() - WANTED_FOR_S
        idle = [name for name, one in self._clients.items() if one.calls == 0 and one.wanted_at <= since]
        for name in idle:
            del self._clients[name]
