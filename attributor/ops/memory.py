"""Return of freed memory to the system after large requests.

glibc keeps freed blocks in its arenas: after a request of 20 MiB about 100 MB that no later request needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import gc
import resource
from pathlib import Path

PERIOD_S = 0.5
"""Interval between two measurements of the resident memory."""

GROWTH_BYTES = 24 * 1024 * 1024
"""Growth above the lowest measurement from which memory is returned."""

WORTH_BYTES = GROWTH_BYTES // 8
"""Bytes that have to be returned for the attempt to count as a success."""

BACKOFF_S, MAX_BACKOFF_S = 2.0, 60.0
"""Pause after an attempt that returned little; it doubles each time, up to the second value."""

_M_ARENA_MAX = -8
"""mallopt's parameter for the number of arenas, from malloc.h."""

_ARENAS = 2

_libc = ctypes.CDLL(ctypes.util.find_library("c"))


def give_back() -> None:
    """Return freed memory that the C library holds to the system; takes milliseconds. No effect without glibc."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def use_few_arenas() -> None:
    """Let all threads share two of the C library's arenas, since each holds freed memory; call this at the start."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, _ARENAS)


async def give_back_growth() -> None:
    """Return memory to the system whenever the process has grown, until cancelled."""
    lowest, pause_s, backoff_s = resident_bytes(), PERIOD_S, BACKOFF_S
    while True:
        await asyncio.sleep(pause_s)
        before = resident_bytes()
        lowest = min(lowest, before)
        pause_s = PERIOD_S
        if before > lowest + GROWTH_BYTES and not await _returned(before):
            # The memory is in use: wait longer, since garbage collection blocks the event loop for about 20 ms.
            pause_s, backoff_s = backoff_s, min(2 * backoff_s, MAX_BACKOFF_S)
        else:
            backoff_s = BACKOFF_S


async def _returned(before: int) -> bool:
    """Return memory to the system; True if at least `WORTH_BYTES` of `before` resident bytes were returned."""
    await asyncio.to_thread(give_back)
    if before - resident_bytes() >= WORTH_BYTES:
        return True
    # A refused request may be held, with all its bytes, by a cycle of its error, traceback and frame.
    gc.collect()
    await asyncio.to_thread(give_back)
    return before - resident_bytes() >= WORTH_BYTES


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
