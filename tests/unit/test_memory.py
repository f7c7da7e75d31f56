"""Memory is given back when much is left behind, and once a minute when little is."""

import asyncio
import itertools

import pytest

from attributor import memory


async def test_little_is_given_back_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(memory, "PERIOD_S", 0.001)
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 1_000_000)
    monkeypatch.setattr(memory, "give_back", lambda: loop.call_soon_threadsafe(given_back.set))
    async with memory.memory_watched():
        await asyncio.wait_for(given_back.wait(), 30)


async def test_nothing_is_given_back_at_once_where_nothing_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    often = asyncio.Event()
    looks = itertools.count()

    def look() -> int:
        if next(looks) == 20:
            often.set()
        return 1_000_000

    def fail() -> None:
        raise AssertionError("given back for nothing")

    monkeypatch.setattr(memory, "PERIOD_S", 0.001)
    monkeypatch.setattr(memory, "resident_bytes", look)
    monkeypatch.setattr(memory, "give_back", fail)
    async with memory.memory_watched():
        await asyncio.wait_for(often.wait(), 30)
