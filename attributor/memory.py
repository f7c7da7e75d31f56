"""Memory that large requests leave behind is given back to the system.

glibc keeps freed blocks in its arenas; after a request of 20 MiB that is 100 MB which no later request needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import gc
import resource
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

PERIOD_S = 0.5
GROWTH_BYTES = 24 * 1024 * 1024
"""Growth since memory was last given back, from which it is worth a look."""

IDLE_S = 2.0
"""Until the next look, where little came back."""

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


@asynccontextmanager
async def memory_watched() -> AsyncGenerator[None, None]:
    """Give memory back whenever it has grown, until this is left."""
    watching = asyncio.create_task(_watch())
    try:
        yield
    finally:
        watching.cancel()


async def _watch() -> None:
    lowest, pause_s = resident_bytes(), PERIOD_S
    while True:
        await asyncio.sleep(pause_s)
        before = resident_bytes()
        lowest = min(lowest, before)
        pause_s = PERIOD_S
        if before > lowest + GROWTH_BYTES:
            # A refused request may hang in a cycle of its error, traceback and frame, with all its bytes.
            gc.collect()
            await asyncio.to_thread(give_back)
            if before - resident_bytes() < GROWTH_BYTES // 8:
                pause_s = IDLE_S  # it is in use: look again later


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
