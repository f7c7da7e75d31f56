"""Tools between threads and coroutines: results for waiting coroutines, and shielding from cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

from gmvaluator.errors import GmvaluatorError

Answer = TypeVar("Answer")


class Waiter(Generic[Answer]):
    """One result that a thread delivers to a coroutine. Create it on the event loop that waits.

    The coroutine awaits `answer`; a thread calls `deliver`. The first outcome counts, later ones are dropped. If the
    coroutine was cancelled, `gone` is true and the outcome is dropped. `deliver` never blocks; after the event loop was
    closed it delivers nothing.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Answer] = self._loop.create_future()

    async def answer(self) -> Answer:
        """Wait for the result. Raises the error that was delivered instead."""
        return await self._future

    @property
    def gone(self) -> bool:
        """True once the waiting coroutine was cancelled. Safe from any thread."""
        return self._future.cancelled()

    def deliver(self, outcome: Answer | GmvaluatorError) -> None:
        """Hand over a result, or an error to be raised. Safe from any thread."""
        deliver_all([(self, outcome)])

    def _settle(self, outcome: Answer | GmvaluatorError) -> None:
        if self._future.done():
            return
        if isinstance(outcome, GmvaluatorError):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)


def deliver_all(outcomes: Sequence[tuple[Waiter[Answer], Answer | GmvaluatorError]]) -> None:
    """Deliver many outcomes, in order. Safe from any thread."""
    # One wake-up for each run of one loop: a batch of 64 answers costs one, not 64.
    for loop, group in groupby(outcomes, key=lambda pair: pair[0]._loop):
        pairs = list(group)
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:
            # The loop is closed, so no coroutine waits any more.
            for waiter, _ in pairs:
                waiter._future.cancel()


def _settle(outcomes: Sequence[tuple[Waiter[Answer], Answer | GmvaluatorError]]) -> None:
    for waiter, outcome in outcomes:
        waiter._settle(outcome)


_Result = TypeVar("_Result")


async def shield_to_completion(operation: Awaitable[_Result]) -> _Result:
    """Await `operation` so that cancelling the caller does not cancel it; return its result.

    If the caller is cancelled, CancelledError is raised at once, and the operation runs to its end on the event loop;
    its result or error is then dropped.

    grpc.aio never frees the messages of a read, write or call whose awaiter was cancelled (grpc/grpc issue 43360): of
    sixty images whose callers disconnected, one stayed in memory for good.
    """
    task = asyncio.ensure_future(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_drop)
        raise


def _drop(task: asyncio.Future[Any]) -> None:
    # Retrieved, or asyncio would log the error as never retrieved.
    if not task.cancelled():
        task.exception()
