"""The live state of the overview: read from the ledger at intervals, encoded once, and sent to all browsers.

A browser that is behind gets the newest state, never a backlog. Every message holds whole amounts, not changes, so a
page that missed any number of messages is right again with the next one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from gmvaluator.errors import GmvaluatorError

IDLE_EVERY_S = 2.0
"""Seconds between updates while nothing is posted: browsers see that the stream is alive, and rates decay."""

UNWATCHED_EVERY_S = 15.0
"""Seconds between queries of the ledger's head while no browser is connected, so that /health stays true."""

AUTHORIZE_EVERY_S = 2.0
"""Seconds between checks of a stream's token; a check at every update would cost for each browser."""

BUSY_SHARE = 0.5
"""Largest part of the time spent reading: a slow ledger makes pages slower, not the machine busy."""

_log = structlog.get_logger("dashboard")

_Read = TypeVar("_Read")


class Live:
    """The newest state of the overview, for pages and streams.

    streams: browsers connected now. sent: messages sent to them. updates: states read. failing: whether the ledger
    could not be read the last time.
    """

    def __init__(
        self,
        read: Callable[[], dict[str, Any]],
        head: Callable[[], int],
        update_s: float,
        *,
        idle_every_s: float = IDLE_EVERY_S,
        unwatched_every_s: float = UNWATCHED_EVERY_S,
        authorize_every_s: float = AUTHORIZE_EVERY_S,
    ) -> None:
        """read: returns the whole state, head: the newest posting's sequence; both run in a thread of their own."""
        self._read = read
        self._head = head
        self._update_s = update_s
        self._idle_every_s = idle_every_s
        self._unwatched_every_s = unwatched_every_s
        self._authorize_every_s = authorize_every_s
        # A thread of its own, so that updates never wait behind the pages' long scans of the ledger.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="live")
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._state: dict[str, Any] | None = None
        self._version = 0
        self._read_at = 0.0
        self._whole: bytes | None = None
        self._update = b""
        self.streams = 0
        self.sent = 0
        self.updates = 0
        self.failing = False

    @property
    def sequence(self) -> int:
        """Sequence of the newest posting in the state; 0 before the first read."""
        return 0 if self._state is None else int(self._state["sequence"])

    def age_s(self, now: float) -> float:
        """Return the seconds since the state was read. now: by time.monotonic."""
        return now - self._read_at if self._state is not None else 0.0

    async def state(self) -> dict[str, Any]:
        """Return the state, read at most one update interval ago."""
        async with self._lock:
            if self._state is None or time.monotonic() - self._read_at >= self._update_s:
                await self._refresh()
            assert self._state is not None
            return self._state

    async def run(self) -> None:
        """Keep the state up to date while a browser is connected, until cancelled."""
        # The first read is made before any page asks for it, so that the first page need not wait.
        polled_at = time.monotonic()
        await self.poll()
        while True:
            began = time.monotonic()
            if self.streams or began - polled_at >= self._unwatched_every_s:
                polled_at = began
                await self.poll()
            took = time.monotonic() - began
            # The sleep is at least as long as keeps reading within BUSY_SHARE of the time.
            await asyncio.sleep(max(self._update_s - took, took / BUSY_SHARE - took))

    async def poll(self) -> None:
        """Query the ledger's head, and read the state if it is out of date; record a failure, and raise nothing."""
        try:
            async with self._lock:
                head = await self._in_thread(self._head)
                stale = head != self.sequence or time.monotonic() - self._read_at >= self._idle_every_s
                # After a failure the whole state is read: the head alone may be readable while the rest is not.
                if self._state is None or self.failing or (self.streams and stale):
                    await self._refresh()
        except GmvaluatorError as error:
            self._note_failure(str(error))
        except Exception as error:  # noqa: BLE001 - pages show that they are stale; the next poll retries
            self._note_failure(repr(error))

    async def _in_thread(self, read: Callable[[], _Read]) -> _Read:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def _refresh(self) -> None:
        state = await self._in_thread(self._read)
        previous, self._state = self._state, state
        self._read_at = time.monotonic()
        self.failing = False
        self._version += 1
        self.updates += 1
        self._whole = None
        self._update = message(difference(previous, state)) if previous else b""
        # One event per version: a condition would pass its lock from stream to stream, one loop iteration each.
        self._changed.set()
        self._changed = asyncio.Event()

    def _note_failure(self, problem: str) -> None:
        # One log line per outage, not one per poll.
        if not self.failing:
            _log.error("reading the ledger failed", error=problem)
        self.failing = True

    def _whole_message(self) -> bytes:
        if self._whole is None:
            assert self._state is not None
            self._whole = message(self._state | {"whole": True})
        return self._whole

    async def stream(self, is_authorized: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield server-sent events: the whole state, then its changes, until `is_authorized` returns False.

        It is called before an update, at most every `authorize_every_s` seconds.
        """
        self.streams += 1
        try:
            await self.state()
            version, authorized_at = self._version, time.monotonic()
            yield self._whole_message()
            while True:
                while self._version == version:
                    await self._changed.wait()
                if time.monotonic() - authorized_at >= self._authorize_every_s:
                    if not is_authorized():
                        return
                    authorized_at = time.monotonic()
                # A browser that missed a version cannot apply the difference to the last one.
                body = self._update if self._version == version + 1 else self._whole_message()
                version = self._version
                self.sent += 1
                yield body
        finally:
            self.streams -= 1


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return `after` without the cards and chart points that a page with the state `before` has already."""
    cards = {card["sequence"] for card in before["feed"]}
    points = after["chart"]["points"]
    same_series = before["chart"]["series"] == after["chart"]["series"]
    # The newest point is replaced until a step has passed, so the points from the one before it on are sent again.
    last = before["chart"]["points"][-2:]
    since = last[0][0] if last else 0
    chart = {"series": after["chart"]["series"], "points": [point for point in points if point[0] >= since]}
    return {
        **after,
        "whole": False,
        "feed": [card for card in after["feed"] if card["sequence"] not in cards],
        "chart": chart if same_series and last else after["chart"],
        "chart_whole": not (same_series and last),
    }


def message(state: dict[str, Any]) -> bytes:
    """Encode one event; its id is the ledger's sequence, which a browser sends when it reconnects."""
    body = json.dumps(state, separators=(",", ":"), ensure_ascii=False)
    return f"id: {state['sequence']}\r\nevent: overview\r\ndata: {body}\r\n\r\n".encode()


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
