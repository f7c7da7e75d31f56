"""The ledger's one writer: nobody waits for ever, whatever breaks and whenever."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from gmvaluator.errors import GmvaluatorError, LedgerFailed, Overloaded, Unavailable
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.results import Outcome, Posted
from gmvaluator.ledger.writer import AnyPosting
from gmvaluator.testing.postings import sample_posting

WAIT_S = 10.0


class FakeLedger:
    """Answers with the posting itself; `on_post` may wait or raise."""

    def __init__(self, on_post: Callable[[], None] = lambda: None) -> None:
        self._on_post = on_post
        self.batches: list[int] = []
        self.closed = False

    def post(self, batch: Sequence[AnyPosting]) -> list[Outcome]:
        self.batches.append(len(batch))
        self._on_post()
        return [Posted(posting) for posting in batch]  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


def held_by(gate: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        gate.wait(WAIT_S)

    return wait


def writer_of(ledger: FakeLedger, failures: list[GmvaluatorError] | None = None, waiting: int = 1024) -> LedgerWriter:
    writer = LedgerWriter(lambda: ledger, (failures if failures is not None else []).append, waiting)
    writer.start()
    return writer


async def close(writer: LedgerWriter) -> None:
    await asyncio.wait_for(asyncio.to_thread(writer.close), WAIT_S)


async def test_postings_that_wait_together_are_committed_together() -> None:
    gate = threading.Event()
    ledger = FakeLedger(held_by(gate))
    writer = writer_of(ledger)
    posts = [asyncio.create_task(writer.post(sample_posting(number))) for number in range(20)]
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(*posts)
    await close(writer)
    assert sum(ledger.batches) == 20
    assert len(ledger.batches) <= 3
    assert ledger.closed


@pytest.mark.parametrize("error", [LedgerFailed("disk"), OSError("disk"), ZeroDivisionError()])
async def test_any_error_of_a_commit_is_told_to_all_who_wait_and_ends_the_writing(error: Exception) -> None:
    def fail() -> None:
        raise error

    failures: list[GmvaluatorError] = []
    writer = writer_of(FakeLedger(fail), failures)
    posts = [writer.post(sample_posting(number)) for number in range(5)]
    answers = await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), WAIT_S)
    assert all(isinstance(answer, LedgerFailed) for answer in answers)
    with pytest.raises(LedgerFailed):
        await asyncio.wait_for(writer.post(sample_posting(9)), WAIT_S)
    await close(writer)
    assert len(failures) == 1


async def test_closing_while_the_last_commit_fails_does_not_hang() -> None:
    gate = threading.Event()

    def wait_and_fail() -> None:
        gate.wait(WAIT_S)
        raise LedgerFailed("disk")

    writer = writer_of(FakeLedger(wait_and_fail))
    post = asyncio.create_task(writer.post(sample_posting(1)))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(close(writer))
    await asyncio.sleep(0.05)
    gate.set()
    await closing
    with pytest.raises(LedgerFailed):
        await post


async def test_closing_commits_what_waits() -> None:
    writer = writer_of(FakeLedger())
    posts = [asyncio.create_task(writer.post(sample_posting(number))) for number in range(200)]
    await asyncio.sleep(0)
    await close(writer)
    assert all(isinstance(answer, Posted) for answer in await asyncio.gather(*posts))
    with pytest.raises(Unavailable):
        await writer.post(sample_posting(1))


@pytest.mark.parametrize("error", [LedgerFailed("held"), PermissionError("no")])
def test_a_ledger_that_cannot_be_opened_says_so_at_the_start(error: Exception) -> None:
    def refuse() -> FakeLedger:
        raise error

    with pytest.raises(LedgerFailed):
        LedgerWriter(refuse, lambda failure: None).start()


async def test_too_many_waiting_postings_are_refused() -> None:
    gate = threading.Event()
    writer = writer_of(FakeLedger(held_by(gate)), waiting=3)
    posts = [asyncio.create_task(writer.post(sample_posting(number))) for number in range(10)]
    await asyncio.sleep(0.05)
    gate.set()
    answers = await asyncio.gather(*posts, return_exceptions=True)
    await close(writer)
    assert sum(isinstance(answer, Overloaded) for answer in answers) in (6, 7)
