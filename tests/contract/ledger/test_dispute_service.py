"""The desk that opens disputes over the wire: calls at once, holds that another made first, a call of bounded work."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from sqlalchemy import Connection

from attributor.core import disputes
from attributor.core.disputes import DisputeService
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import GenerationConflict
from gmvaluator.ledger.current_amounts import CurrentAmounts, read_current_amounts
from gmvaluator.ledger.decision import HOLD, NewDecision
from gmvaluator.ledger.decisions import dispute_holds
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_work
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from tests.support.scenes import OCTOBER, attribute, balances, record, work

PAID = 1_000_000


@dataclass
class Office:
    """A desk, its ledger, and the writer that it posts by."""

    desk: DisputeService
    ledger: Ledger
    writer: LedgerWriter

    async def open(self, dispute_id: str, generation: str = "") -> royalty_v1.OpenDisputeResponse:
        """A dispute about all that work 1 earned, or about what it earned by one generation."""
        request = royalty_v1.OpenDisputeRequest(
            dispute_id=dispute_id, training_image_id=str(sample_work(1)), generation_id=generation, reason="mine"
        )
        return await self.desk.open(request)

    def held(self) -> int:
        return balances(self.ledger)["held"]


@pytest.fixture
async def office(place: DataLocation) -> AsyncIterator[Office]:
    """Ada's work 1 was paid for five generations."""
    record(place, work(1, "ada"))
    with open_ledger(place, write=True) as book:
        for number in range(5):
            attribute(place, f"g{number}", [1], OCTOBER, book=book)
    async with AsyncExitStack() as stack:
        writer = LedgerWriter(lambda: open_ledger(place, write=True), lambda error: None)
        writer.start()
        stack.callback(writer.close)
        ledger = stack.enter_context(open_ledger(place))
        catalogue = stack.enter_context(open_catalogue(place))
        yield Office(DisputeService(ledger, catalogue, writer), ledger, writer)


async def test_disputes_opened_at_once_hold_the_same_credits_once(office: Office) -> None:
    opened = await asyncio.gather(*(office.open(f"case-{number}") for number in range(6)))
    assert sorted(one.held_micros for one in opened) == [0] * 5 + [5 * PAID]
    assert office.held() == 5 * PAID
    assert office.ledger.verify().ok


async def test_a_caller_that_leaves_does_not_let_the_next_one_in_early(office: Office) -> None:
    slow = Slow(office.writer)
    object.__setattr__(office.desk, "_writer", slow)
    leaving = asyncio.create_task(office.open("case-1"))
    await asyncio.wait_for(slow.holding.wait(), 10)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    staying = asyncio.create_task(office.open("case-2"))
    await asyncio.sleep(0.05)
    slow.gate.set()
    assert (await staying).held_micros == 0
    assert office.held() == 5 * PAID


class Slow:
    """Posts holds once it is let go."""

    def __init__(self, writer: LedgerWriter) -> None:
        self.writer = writer
        self.holding, self.gate = asyncio.Event(), asyncio.Event()

    async def post(self, posting: NewDecision) -> Posted | Replayed:
        if posting.decision.kind == HOLD:
            self.holding.set()
            await self.gate.wait()
        return await self.writer.post(posting)


class Forestalled:
    """Another attributor is quicker with the first hold."""

    def __init__(self, writer: LedgerWriter, other: DisputeService) -> None:
        self.writer = writer
        self.other = other
        self.late = False

    async def post(self, posting: NewDecision) -> Posted | Replayed:
        if posting.decision.kind == HOLD and not self.late:
            self.late = True
            request = royalty_v1.OpenDisputeRequest(dispute_id="case-1", generation_id="g4", reason="mine")
            await self.other.open(request)
        return await self.writer.post(posting)


async def test_a_hold_that_another_attributor_was_quicker_with_is_worked_out_anew(
    office: Office, place: DataLocation
) -> None:
    with open_catalogue(place) as catalogue:
        late = DisputeService(office.ledger, catalogue, Forestalled(office.writer, office.desk))
        request = royalty_v1.OpenDisputeRequest(
            dispute_id="case-2", training_image_id=str(sample_work(1)), reason="no, mine"
        )
        assert (await late.open(request)).held_micros == 4 * PAID
    assert office.held() == 5 * PAID


async def test_no_more_is_read_than_one_call_holds(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Sequence[int]] = []

    def noted(connection: Connection, sequences: Sequence[int]) -> list[CurrentAmounts]:
        read.append(list(sequences))
        return read_current_amounts(connection, sequences)

    monkeypatch.setattr(disputes, "MAX_HOLDS", 1)
    monkeypatch.setattr(dispute_holds, "_AT_ONCE", 1)
    monkeypatch.setattr(dispute_holds, "read_current_amounts", noted)
    first = await office.open("case-1")
    assert (first.held_micros, first.more_to_hold) == (PAID, True)
    assert read == [[5], [4]]
    with pytest.raises(GenerationConflict):
        await office.open("case-1", "g1")
    answers = [await office.open("case-1") for _ in range(4)]
    assert [one.held_micros for one in answers] == [PAID * number for number in (2, 3, 4, 5)]
    assert [one.more_to_hold for one in answers] == [True, True, True, False]
