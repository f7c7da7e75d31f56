"""Background tasks: coroutines that run next to a block of code and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

_log = structlog.get_logger("attributor")


@asynccontextmanager
async def background_task(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run `work` until the block is left, then cancel it and wait for it to end.

    An error that it raises is logged at once and does not reach the block.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_log_error)
    try:
        yield
    finally:
        task.cancel()
        # Not `await task`, which would raise its error here, in place of the block's own.
        await asyncio.wait([task])


def _log_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background task failed", task=repr(task.get_coro()), exc_info=error)
