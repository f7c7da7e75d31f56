"""Waiting for what must not be cut off in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def to_its_end(operation: Awaitable[_Result]) -> _Result:
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
