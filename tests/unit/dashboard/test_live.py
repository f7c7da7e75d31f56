"""Tests of the live state: failures of the ledger are noticed, and streams end with their authorization."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from dashboard.app import application
from dashboard.figures.live import Live, cancelled
from dashboard.server import wired
from dashboard.web.settings import DashboardSettings
from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, new_token, token_sha256
from gmvaluator.errors import Unavailable
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting
from tests.support.waiting import until, until_async


class FailingLedger:
    """A ledger that cannot be reached while `unreachable` is set."""

    def __init__(self) -> None:
        self.unreachable = False
        self.reads = 0

    def head(self) -> int:
        if self.unreachable:
            raise Unavailable("the ledger cannot be reached")
        return 1

    def read(self) -> dict[str, Any]:
        self.head()
        self.reads += 1
        return {"sequence": 1, "feed": [], "chart": {"series": [], "points": []}}


def test_failures_are_noticed_while_no_browser_is_connected() -> None:
    ledger = FailingLedger()
    live = Live(ledger.read, ledger.head, 0.01, unwatched_every_s=0.0)

    async def run() -> None:
        updating = asyncio.create_task(live.run())
        await until_async(lambda: live.updates == 1)
        ledger.unreachable = True
        await until_async(lambda: live.failing)
        ledger.unreachable = False
        await until_async(lambda: not live.failing)
        await cancelled(updating)

    asyncio.run(run())
    assert ledger.reads == 2, "without browsers the whole state is read only at first, and to end a failure"


def test_a_page_that_could_be_read_ends_a_failure() -> None:
    ledger = FailingLedger()
    ledger.unreachable = True
    live = Live(ledger.read, ledger.head, 0.0)

    async def visit() -> None:
        await live.poll()
        assert live.failing
        ledger.unreachable = False
        await live.state()

    asyncio.run(visit())
    assert not live.failing


def test_a_stream_ends_when_it_is_no_longer_authorized() -> None:
    ledger = FailingLedger()
    live = Live(ledger.read, ledger.head, 0.0, idle_every_s=0.0, authorize_every_s=0.0)
    authorizations = iter([True, True, False])

    async def watch() -> int:
        messages = 0
        async for _ in live.stream(lambda: next(authorizations)):
            messages += 1
            updating = asyncio.get_running_loop().create_task(live.poll())
        await updating
        return messages

    assert asyncio.run(watch()) == 3, "the whole state, and one update per authorization"
    assert live.streams == 0


def test_a_revoked_token_ends_its_stream(tmp_path: Path) -> None:
    token, tokens = new_token(), tmp_path / "tokens.json"
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    add_token(tokens, Token("one", Role.AUDITOR, token_sha256(token), datetime.now(UTC).isoformat()))
    settings = DashboardSettings(DataLocation(tmp_path), update_s=0.01)
    states = FailingLedger()
    live = Live(states.read, states.head, 0.01, idle_every_s=0.0, authorize_every_s=0.0)
    with (
        wired(settings) as context,
        TestClient(application(replace(context, live=live)), base_url="http://127.0.0.1") as client,
        ThreadPoolExecutor(1) as browser,
    ):
        client.post("/sign-in", data={"token": token, "next": "/sign-in"})
        # The client returns when the stream has ended, and not before.
        watching = browser.submit(client.get, "/live/overview")
        until(lambda: live.sent >= 3 or watching.done())
        assert not watching.done()
        tokens.write_text(json.dumps({"tokens": []}))
        assert watching.result(30).text.count("event: overview") >= 4
