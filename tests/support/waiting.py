"""Waiting for conditions in tests, each with a deadline, so that a test fails instead of hanging."""

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 30.0
_PAUSE_S = 0.005


def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition is true. Raises AssertionError after `deadline_s` seconds."""
    ends_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends_at, f"not true within {deadline_s} s"
        time.sleep(_PAUSE_S)


async def let_tasks_run(rounds: int = 20) -> None:
    """Run the event loop for some rounds: every task that can proceed does, until it waits for an event."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def until_async(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait like `until`, and let the event loop run meanwhile."""
    ends_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends_at, f"not true within {deadline_s} s"
        await asyncio.sleep(_PAUSE_S)
