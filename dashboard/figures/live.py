"""One state for all browsers: read from the ledger at most four times a second, encoded once, and sent to everyone.

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
"""While nothing is posted, browsers still hear this often that all is well, and rates decay."""
UNWATCHED_EVERY_S = 15.0
"""While nobody watches, the ledger is still asked this often for its head, so that /health tells what is so."""
ASK_EVERY_S = 2.0
"""A stream asks this often whether its token still lets it in; more often would cost with every update and browser."""
BUSY_SHARE = 0.5
"""Reading may take this part of the time at most; a slow ledger makes pages slower, not the machine busy."""

_log = structlog.get_logger("dashboard")

_Read = TypeVar("_Read")


class Live:
    """The newest state of the overview, for pages and streams."""

    def __init__(self, read: Callable[[], dict[str, Any]], head: Callable[[], int], update_s: float) -> None:
        self._read = read
        self._head = head
        self._update_s = update_s
        # Of its own, so that it never waits behind the pages' long scans of the ledger.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="live")
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._state: dict[str, Any] | None = None
        self._before: dict[str, Any] | None = None
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
        """Newest posting that pages show; 0 before the first."""
        return 0 if self._state is None else int(self._state["sequence"])

    def age_s(self, now: float) -> float:
        """Seconds since the state was read; `now` by time.monotonic."""
        return now - self._read_at if self._state is not None else 0.0

    async def state(self) -> dict[str, Any]:
        """The state, not older than one update interval."""
        async with self._lock:
            if self._state is None or time.monotonic() - self._read_at >= self._update_s:
                await self._refresh()
            assert self._state is not None
            return self._state

    async def run(self) -> None:
        """Read once, so that the first page need not wait, then keep the state new while anybody watches; for ever."""
        looked_at = time.monotonic()
        await self._tick()
        while True:
            began = time.monotonic()
            if self.streams or began - looked_at >= UNWATCHED_EVERY_S:
                looked_at = began
                await self._tick()
            took = time.monotonic() - began
            await asyncio.sleep(max(self._update_s - took, took / BUSY_SHARE - took))

    async def _tick(self) -> None:
        try:
            async with self._lock:
                head = await self._in_thread(self._head)
                old = head != self.sequence or time.monotonic() - self._read_at >= IDLE_EVERY_S
                # Only a whole read ends a failure: it may be another than the head's.
                if self._state is None or self.failing or (self.streams and old):
                    await self._refresh()
        except GmvaluatorError as error:
            self._say_failing(str(error))
        except Exception as error:  # noqa: BLE001 - pages say that they are stale; the next tick tries again
            self._say_failing(repr(error))

    async def _in_thread(self, read: Callable[[], _Read]) -> _Read:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def _refresh(self) -> None:
        state = await self._in_thread(self._read)
        self._before, self._state = self._state, state
        self._read_at = time.monotonic()
        self.failing = False
        self._version += 1
        self.updates += 1
        self._whole = None
        self._update = message(difference(self._before, state)) if self._before else b""
        # One event a version: a condition would hand its lock from stream to stream, one turn of the loop each.
        self._changed.set()
        self._changed = asyncio.Event()

    def _say_failing(self, problem: str) -> None:
        if not self.failing:
            _log.error("reading the ledger failed", error=problem)
        self.failing = True

    def _whole_message(self) -> bytes:
        if self._whole is None:
            assert self._state is not None
            self._whole = message(self._state | {"whole": True})
        return self._whole

    async def stream(self, let_in: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Server-sent events: the whole state first, then what is new of it, until `let_in` says no.

        It is asked before an update, where it was not asked for ASK_EVERY_S.
        """
        self.streams += 1
        try:
            await self.state()
            seen, asked_at = self._version, time.monotonic()
            yield self._whole_message()
            while True:
                while self._version == seen:
                    await self._changed.wait()
                if time.monotonic() - asked_at >= ASK_EVERY_S:
                    if not let_in():
                        return
                    asked_at = time.monotonic()
                body = self._update if self._version == seen + 1 else self._whole_message()
                seen = self._version
                self.sent += 1
                yield body
        finally:
            self.streams -= 1


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """`after` without the cards and chart points that a page which has `before` knows already."""
    cards = {card["sequence"] for card in before["feed"]}
    points = after["chart"]["points"]
    same_series = before["chart"]["series"] == after["chart"]["series"]
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
    """One event; its id is the ledger's sequence, with which a browser that was cut comes back."""
    body = json.dumps(state, separators=(",", ":"), ensure_ascii=False)
    return f"id: {state['sequence']}\r\nevent: overview\r\ndata: {body}\r\n\r\n".encode()


async def cancelled(task: asyncio.Task[None]) -> None:
    """End a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
