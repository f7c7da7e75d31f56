"""The state that browsers share: whether the ledger can be read, whoever watches."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dashboard import live as module
from dashboard.live import Live, cancelled
from gmvaluator.errors import Unavailable


class Book:
    """A ledger that can be cut."""

    def __init__(self) -> None:
        self.cut = False
        self.reads = 0

    def head(self) -> int:
        if self.cut:
            raise Unavailable("the ledger cannot be reached")
        return 1

    def read(self) -> dict[str, Any]:
        self.head()
        self.reads += 1
        return {"sequence": 1, "feed": [], "chart": {"series": [], "points": []}}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - it waits for a thread too
            await asyncio.sleep(0.005)


def test_health_tells_what_is_so_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWATCHED_EVERY_S", 0.0)
    book = Book()
    live = Live(book.read, book.head, 0.01)

    async def watched() -> None:
        ticking = asyncio.create_task(live.run())
        await until(lambda: live.updates == 1)
        book.cut = True
        await until(lambda: live.failing)
        book.cut = False
        await until(lambda: not live.failing)
        await cancelled(ticking)

    asyncio.run(watched())
    assert book.reads == 2, "an unwatched ledger is read whole only at first, and to end a failure"


def test_a_page_that_could_be_read_ends_a_failure() -> None:
    book = Book()
    book.cut = True
    live = Live(book.read, book.head, 0.0)

    async def visited() -> None:
        await live._tick()
        assert live.failing
        book.cut = False
        await live.state()

    asyncio.run(visited())
    assert not live.failing
