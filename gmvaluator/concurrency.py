"""How a worker thread answers a coroutine.

Waiting for what must not be cut off in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

from gmvaluator.errors import GmvaluatorError

Answer = TypeVar("Answer")


class Waiter(Generic[Answer]):
    """A coroutine's side and a thread's side of one answer; make it on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Answer] = self._loop.create_future()

    async def answer(self) -> Answer:
        """Wait for `deliver`; raises the error that was delivered."""
        return await self._future

    @property
    def gone(self) -> bool:
        """True once nobody waits any more."""
        return self._future.cancelled()

    def deliver(self, outcome: Answer | GmvaluatorError) -> None:
        """Called from any thread, once or more: the first outcome counts."""
        deliver_all([(self, outcome)])

    def _settle(self, outcome: Answer | GmvaluatorError) -> None:
        if self._future.done():
            return
        if isinstance(outcome, GmvaluatorError):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)


def deliver_all(outcomes: Sequence[tuple[Waiter[Answer], Answer | GmvaluatorError]]) -> None:
    """Deliver to many coroutines, and wake each event loop once for all of its own."""
    for loop, mine in groupby(outcomes, key=lambda one: one[0]._loop):
        pairs = list(mine)
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:
            # The loop is closed, and whoever waited went away with it.
            for waiter, _ in pairs:
                waiter._future.cancel()


def _settle(outcomes: Sequence[tuple[Waiter[Answer], Answer | GmvaluatorError]]) -> None:
    for waiter, outcome in outcomes:
        waiter._settle(outcome)


_Result = TypeVar("_Result")


async def shield_to_completion(operation: Awaitable[_Result]) -> _Result:
    """The result of an operation that goes on to its end though its awaiter is cancelled; what comes then is dropped.

    For reads, writes and calls of grpc.aio, which never frees the messages of one whose awaiter was cancelled
    (grpc/grpc issue 43360): of sixty images whose callers left, one stayed in memory for good.
    """
    task = asyncio.ensure_future(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_drop)
        raise


def _drop(task: asyncio.Future[Any]) -> None:
    """Hear its error, which nobody waits for any more; asyncio would log it as never retrieved."""
    if not task.cancelled():
        task.exception()
