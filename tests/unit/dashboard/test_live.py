"""The state that browsers share: whether the ledger can be read, whoever watches."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dashboard.app import application
from dashboard.figures import live as module
from dashboard.figures.live import Live, cancelled
from dashboard.server import wired
from dashboard.web.settings import DashboardSettings
from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, new_token, token_sha256
from gmvaluator.errors import Unavailable
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting


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


def test_a_stream_ends_when_it_is_no_longer_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY_S", 0.0)
    book = Book()
    live = Live(book.read, book.head, 0.0)
    answers = iter([True, True, False])

    async def watched() -> int:
        messages = 0
        async for _ in live.stream(lambda: next(answers)):
            messages += 1
            updating = asyncio.get_running_loop().create_task(live._refresh())
        await updating
        return messages

    assert asyncio.run(watched()) == 3, "the whole state, and an update for each yes"
    assert live.streams == 0


def test_a_revoked_token_ends_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(module, "IDLE_EVERY_S", 0.0)
    token, tokens = new_token(), tmp_path / "tokens.json"
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    add_token(tokens, Token("one", Role.AUDITOR, token_sha256(token), datetime.now(UTC).isoformat()))
    settings = DashboardSettings(DataLocation(tmp_path), update_s=0.01)
    with (
        wired(settings) as parts,
        TestClient(application(parts), base_url="http://127.0.0.1") as client,
        ThreadPoolExecutor(1) as browser,
    ):
        client.post("/sign-in", data={"token": token, "next": "/sign-in"})
        # The client answers when the stream has ended, and not before.
        watching = browser.submit(client.get, "/live/overview")
        asyncio.run(until(lambda: parts.live.sent >= 3 or watching.done()))
        assert not watching.done()
        tokens.write_text(json.dumps({"tokens": []}))
        assert watching.result(30).text.count("event: overview") >= 4
