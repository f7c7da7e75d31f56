"""The ledger's writer thread: no call waits without end, whatever fails and whenever."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from gmvaluator.errors import GenerationConflict, GmvaluatorError, LedgerFailed, Overloaded, Unavailable
from gmvaluator.ledger import group_commit
from gmvaluator.ledger.group_commit import Decide, LedgerWriter, Result
from gmvaluator.ledger.results import Outcome, Posted
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.ledger.writer import AnyPosting
from gmvaluator.testing.postings import sample_posting

WAIT_S = 10.0

TRANSACTION = LedgerTransaction(None)  # type: ignore[arg-type]
"""A transaction for decisions that neither read nor post."""


class FakeLedger:
    """Reports every posting as posted; `on_post` may wait or raise before that."""

    def __init__(self, on_post: Callable[[], None] = lambda: None) -> None:
        self._on_post = on_post
        self.batches: list[int] = []
        self.closed = False
        self.gone = False

    def post(self, batch: Sequence[AnyPosting]) -> list[Outcome]:
        self.batches.append(len(batch))
        self._on_post()
        return [Posted(posting) for posting in batch]  # type: ignore[arg-type]

    def decide(self, decision: Decide[Result]) -> Result:
        self.batches.append(0)
        return decision(TRANSACTION)

    def check_in_place(self) -> None:
        if self.gone:
            raise Unavailable("ledger.sqlite was removed")

    def close(self) -> None:
        self.closed = True


class Gate:
    """Called in a commit, it waits until it is opened; `reached` is set once a commit waits."""

    def __init__(self, error: Exception | None = None) -> None:
        self._opened = threading.Event()
        self._error = error
        self.reached = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self._opened.wait(WAIT_S)
        if self._error is not None:
            raise self._error

    def open(self) -> None:
        self._opened.set()


def writer_of(ledger: FakeLedger, failures: list[GmvaluatorError] | None = None, waiting: int = 1024) -> LedgerWriter:
    writer = LedgerWriter(lambda: ledger, (failures if failures is not None else []).append, waiting)
    writer.start()
    return writer


async def first_commit_waits(writer: LedgerWriter, gate: Gate) -> asyncio.Task[object]:
    """Post a first posting, and return its task once the writer thread waits in its commit."""
    post = asyncio.create_task(writer.post(sample_posting(0)))
    assert await asyncio.to_thread(gate.reached.wait, WAIT_S)
    return post


async def close(writer: LedgerWriter) -> None:
    await asyncio.wait_for(asyncio.to_thread(writer.close), WAIT_S)


async def test_postings_that_wait_together_are_committed_together() -> None:
    gate = Gate()
    ledger = FakeLedger(gate)
    writer = writer_of(ledger)
    first = await first_commit_waits(writer, gate)
    posts = [asyncio.create_task(writer.post(sample_posting(number))) for number in range(1, 20)]
    # Each task puts its posting into the queue before it first waits.
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, *posts)
    await close(writer)
    assert ledger.batches == [1, 19]
    assert ledger.closed


@pytest.mark.parametrize("error", [LedgerFailed("disk"), OSError("disk"), ZeroDivisionError()])
async def test_error_of_a_commit_is_raised_in_all_waiting_calls_and_stops_the_writer(error: Exception) -> None:
    def fail() -> None:
        raise error

    failures: list[GmvaluatorError] = []
    writer = writer_of(FakeLedger(fail), failures)
    posts = [writer.post(sample_posting(number)) for number in range(5)]
    results = await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), WAIT_S)
    assert all(isinstance(result, LedgerFailed) for result in results)
    with pytest.raises(LedgerFailed):
        await asyncio.wait_for(writer.post(sample_posting(9)), WAIT_S)
    await close(writer)
    assert len(failures) == 1


async def test_decisions_are_made_one_by_one_in_the_writers_thread() -> None:
    ledger = FakeLedger()
    writer = writer_of(ledger)
    threads = await asyncio.gather(*(writer.decide(lambda _: threading.current_thread().name) for _ in range(3)))
    await close(writer)
    assert threads == ["ledger-writer"] * 3
    assert ledger.batches == [0, 0, 0]


async def test_refused_decision_stops_nobody_else() -> None:
    def refuse(_: LedgerTransaction) -> None:
        raise GenerationConflict("another dispute has this id")

    failures: list[GmvaluatorError] = []
    writer = writer_of(FakeLedger(), failures)
    refused, posted, decided = await asyncio.gather(
        writer.decide(refuse), writer.post(sample_posting(1)), writer.decide(lambda _: 7), return_exceptions=True
    )
    await close(writer)
    assert isinstance(refused, GenerationConflict)
    assert isinstance(posted, Posted)
    assert (decided, failures) == (7, [])


async def test_failed_write_of_a_decision_stops_the_writer() -> None:
    def fail(_: LedgerTransaction) -> None:
        raise LedgerFailed("disk")

    failures: list[GmvaluatorError] = []
    writer = writer_of(FakeLedger(), failures)
    calls = [writer.decide(fail), writer.post(sample_posting(1)), writer.decide(lambda _: 7)]
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WAIT_S)
    await close(writer)
    assert isinstance(results[0], LedgerFailed)
    assert isinstance(results[2], LedgerFailed)
    assert len(failures) == 1


async def test_idle_writer_stops_when_its_ledger_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "CHECK_S", 0.001)
    stopped = threading.Event()
    ledger = FakeLedger()
    writer = LedgerWriter(lambda: ledger, lambda _: stopped.set())
    writer.start()
    assert isinstance(await writer.post(sample_posting(1)), Posted)
    ledger.gone = True
    assert await asyncio.to_thread(stopped.wait, WAIT_S)
    with pytest.raises(Unavailable, match="removed"):
        await writer.post(sample_posting(2))
    await close(writer)


async def test_close_returns_although_the_last_commit_fails() -> None:
    gate = Gate(LedgerFailed("disk"))
    writer = writer_of(FakeLedger(gate))
    post = await first_commit_waits(writer, gate)
    closing = asyncio.create_task(close(writer))
    await asyncio.sleep(0)
    gate.open()
    await closing
    with pytest.raises(LedgerFailed):
        await post


async def test_close_commits_the_waiting_postings() -> None:
    writer = writer_of(FakeLedger())
    posts = [asyncio.create_task(writer.post(sample_posting(number))) for number in range(200)]
    await asyncio.sleep(0)
    await close(writer)
    assert all(isinstance(result, Posted) for result in await asyncio.gather(*posts))
    with pytest.raises(Unavailable):
        await writer.post(sample_posting(1))


@pytest.mark.parametrize("error", [LedgerFailed("held"), PermissionError("no")])
def test_start_raises_what_opening_the_ledger_raises(error: Exception) -> None:
    def refuse() -> FakeLedger:
        raise error

    with pytest.raises(LedgerFailed):
        LedgerWriter(refuse, lambda failure: None).start()


async def test_postings_above_the_limit_of_the_queue_are_rejected() -> None:
    gate = Gate()
    writer = writer_of(FakeLedger(gate), waiting=3)
    first = await first_commit_waits(writer, gate)
    posts = [asyncio.create_task(writer.post(sample_posting(number))) for number in range(1, 10)]
    await asyncio.sleep(0)
    gate.open()
    results = await asyncio.gather(first, *posts, return_exceptions=True)
    await close(writer)
    assert sum(isinstance(result, Overloaded) for result in results) == 6
