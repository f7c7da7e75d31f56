"""Memory that large requests leave behind is given back to the system.

glibc keeps freed blocks in its arenas; after a request of 20 MiB that is 100 MB which no later request needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import resource
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

PERIOD_S = 0.5
GROWTH_BYTES = 24 * 1024 * 1024
"""Growth since memory was last given back, from which it is worth a look."""

_libc = ctypes.CDLL(ctypes.util.find_library("c"))


def give_back() -> None:
    """Return what the C library keeps and nobody uses; takes milliseconds, and does nothing where it is not glibc."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


@asynccontextmanager
async def memory_watched() -> AsyncGenerator[None, None]:
    """Give memory back whenever it has grown, until this is left."""
    watching = asyncio.create_task(_watch())
    try:
        yield
    finally:
        watching.cancel()


async def _watch() -> None:
    settled = resident_bytes()
    while True:
        await asyncio.sleep(PERIOD_S)
        settled = min(settled, resident_bytes())
        if resident_bytes() > settled + GROWTH_BYTES:
            await asyncio.to_thread(give_back)
            # What is still in use now may be free at the next look: only half of it counts as settled.
            settled += (resident_bytes() - settled) // 2


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
