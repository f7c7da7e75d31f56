"""Admission control: a bound on concurrent calls and on their pixels, shared fairly between clients."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gmvaluator.errors import Overloaded

CALL_PIXELS = 250_000
"""Cost of a call in addition to its image's pixels: models' inputs, vectors and responses, whatever its size."""

DEMAND_S = 1.0
"""Time for which a client that was refused still counts as one that shares the capacity."""

DEFAULT_PUSHBACK_MS = 250
"""Retry delay until the duration of a call is known."""

MIN_PUSHBACK_MS, MAX_PUSHBACK_MS = 50, 5_000
_SMOOTHING = 0.1
"""Weight of the newest call in the moving average of the calls' duration."""


@dataclass(slots=True)
class _Client:
    """The calls in flight of one client. demanded_at: clock time of its last refusal or wait, in seconds."""

    calls: int = 0
    pixels: int = 0
    demanded_at: float = -DEMAND_S


@dataclass(slots=True)
class AdmissionCounts:
    """Numbers of admitted and refused calls since the start."""

    admitted: int = 0
    refused: int = 0


class Admission:
    """Admission control, which bounds the calls in flight and their pixels; it belongs to one event loop.

    `admit` refuses at once, for unary calls; `wait` queues, for streams, and serves the waiting clients round-robin.
    While several clients compete, each may hold an equal part. A call that is larger than the whole bound is admitted
    when nothing else is in flight.
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
        """Admit one call for the block. Raises Overloaded, with `retry_after_ms`, if there is no capacity now."""
        cost = CALL_PIXELS + pixels
        if not self._fits(client, cost):
            self._note_demand(client)
            self.counts.refused += 1
            raise Overloaded(
                f"{self.calls} images are being valued, {self._held(client)} of them yours: send this one again later",
                retry_after_ms=self.pushback_ms,
            )
        self._take(client, cost)
        with self._released_after(client, cost):
            yield

    @asynccontextmanager
    async def wait(self, client: str, pixels: int) -> AsyncIterator[None]:
        """Admit one call for the block, once there is capacity."""
        cost = CALL_PIXELS + pixels
        if self._waiting or not self._fits(client, cost):
            await self._queue(client, cost)
        else:
            self._take(client, cost)
        with self._released_after(client, cost):
            yield

    @property
    def pushback_ms(self) -> int:
        """Retry delay in milliseconds: the time in which about half of the calls in flight end."""
        delay_ms = self._call_ms / 2 if self._call_ms else DEFAULT_PUSHBACK_MS
        return round(min(max(delay_ms, MIN_PUSHBACK_MS), MAX_PUSHBACK_MS))

    @contextmanager
    def _released_after(self, client: str, cost: int) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            ms = (self._clock() - began) * 1000
            self._call_ms += (ms - self._call_ms) * (_SMOOTHING if self._call_ms else 1.0)
            self._release(client, cost)

    async def _queue(self, client: str, cost: int) -> None:
        self._note_demand(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append((cost, turn))
        self._serve_waiting()
        try:
            await turn
        except asyncio.CancelledError:
            # Capacity that was granted in the same round of the loop as the cancellation has to be returned.
            if turn.done() and not turn.cancelled():
                self._release(client, cost)
            raise

    def _fits(self, client: str, cost: int) -> bool:
        if self.calls == 0:
            return True
        if self.calls >= self._max_calls or self.pixels + cost > self._max_pixels:
            return False
        own = self._clients.get(client)
        sharing = self._sharing(client)
        # A first call is always admitted if it fits: otherwise many clients would leave none of them a part.
        if own is None or own.calls == 0 or sharing == 1:
            return True
        return (own.calls + 1) * sharing <= self._max_calls and (own.pixels + cost) * sharing <= self._max_pixels

    def _sharing(self, client: str) -> int:
        """Count the clients that compete for capacity now, this one included."""
        since = self._clock() - DEMAND_S
        others = (state for name, state in self._clients.items() if name != client)
        return 1 + sum(state.calls > 0 or state.demanded_at > since for state in others)

    def _held(self, client: str) -> int:
        return self._clients[client].calls if client in self._clients else 0

    def _note_demand(self, client: str) -> None:
        self._clients.setdefault(client, _Client()).demanded_at = self._clock()

    def _take(self, client: str, cost: int) -> None:
        own = self._clients.setdefault(client, _Client())
        own.calls += 1
        own.pixels += cost
        self.calls += 1
        self.pixels += cost
        self.counts.admitted += 1

    def _release(self, client: str, cost: int) -> None:
        own = self._clients[client]
        own.calls -= 1
        own.pixels -= cost
        self.calls -= 1
        self.pixels -= cost
        self._serve_waiting()
        self._forget_idle()

    def _serve_waiting(self) -> None:
        """Give free capacity to waiting calls, one of each client in turn."""
        for client in list(self._waiting):
            queue = self._waiting[client]
            # Done means cancelled: the caller has disconnected.
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
        # Clients without a token are named by their connection: the table would grow with each.
        since = self._clock() - DEMAND_S
        idle = [name for name, state in self._clients.items() if state.calls == 0 and state.demanded_at <= since]
        for name in idle:
            del self._clients[name]
