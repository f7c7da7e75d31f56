"""Memory that large requests leave behind is given back to the system.

glibc keeps freed blocks in its arenas; after a request of 20 MiB that is 100 MB which no later request needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import gc
import resource
from pathlib import Path

PERIOD_S = 0.5
GROWTH_BYTES = 24 * 1024 * 1024
"""Growth since memory was last given back, from which it is worth a look."""

WORTH_BYTES = GROWTH_BYTES // 8
"""What has to come back for it to have been worth it."""

IDLE_S, LONGEST_IDLE_S = 2.0, 60.0
"""Until the next look, where little came back; it doubles each time."""

_M_ARENA_MAX = -8
_ARENAS = 2

_libc = ctypes.CDLL(ctypes.util.find_library("c"))


def give_back() -> None:
    """Return what the C library keeps and nobody uses; takes milliseconds, and does nothing where it is not glibc."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def use_few_arenas() -> None:
    """Let all threads share two of the C library's arenas, each of which keeps what was freed; call it early."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, _ARENAS)


async def give_back_growth() -> None:
    """Return memory to the system whenever the process has grown, until cancelled."""
    lowest, pause_s, idle_s = resident_bytes(), PERIOD_S, IDLE_S
    while True:
        await asyncio.sleep(pause_s)
        before = resident_bytes()
        lowest = min(lowest, before)
        pause_s = PERIOD_S
        if before > lowest + GROWTH_BYTES and not await _came_back(before):
            # It is in use: look again later. Collecting keeps the event loop for some 20 ms each time.
            pause_s, idle_s = idle_s, min(2 * idle_s, LONGEST_IDLE_S)
        else:
            idle_s = IDLE_S


async def _came_back(before: int) -> bool:
    """Give memory back; whether it was worth it."""
    await asyncio.to_thread(give_back)
    if before - resident_bytes() >= WORTH_BYTES:
        return True
    # A refused request may hang in a cycle of its error, traceback and frame, with all its bytes.
    gc.collect()
    await asyncio.to_thread(give_back)
    return before - resident_bytes() >= WORTH_BYTES


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
