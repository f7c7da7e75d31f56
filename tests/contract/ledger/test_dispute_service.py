"""The service that opens disputes over gRPC: concurrent calls, holds posted by another process, bounded calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from attributor.core.disputes import DisputeService
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.errors import GenerationConflict, InvalidInput
from gmvaluator.ledger.group_commit import Decide, LedgerWriter, Result
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_work
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from tests.support.scenes import OCTOBER, attribute, balances, record, work

PAID = 1_000_000


@dataclass
class Office:
    """A dispute service with the ledger, catalogue and writer that it uses."""

    service: DisputeService
    ledger: Ledger
    catalogue: Catalogue
    writer: LedgerWriter

    async def open(self, dispute_id: str, generation: str = "") -> royalty_v1.OpenDisputeResponse:
        """Open a dispute about all credits of work 1, or about those of one generation."""
        request = royalty_v1.OpenDisputeRequest(
            dispute_id=dispute_id, training_image_id=str(sample_work(1)), generation_id=generation, reason="mine"
        )
        return await self.service.open(request)

    def held(self) -> int:
        return balances(self.ledger)["held"]


@pytest.fixture
async def office(place: DataLocation) -> AsyncIterator[Office]:
    """An office whose ledger credits Ada's work 1 for five generations."""
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
        yield Office(DisputeService(ledger, catalogue, writer), ledger, catalogue, writer)


async def test_concurrent_disputes_hold_the_same_credits_once(office: Office) -> None:
    opened = await asyncio.gather(*(office.open(f"case-{number}") for number in range(6)))
    assert sorted(response.held_micros for response in opened) == [0] * 5 + [5 * PAID]
    assert office.held() == 5 * PAID
    assert office.ledger.verify().ok


async def test_dispute_that_was_overtaken_holds_what_the_other_left(office: Office, place: DataLocation) -> None:
    with open_catalogue(place) as catalogue:
        late = DisputeService(office.ledger, catalogue, OvertakenWriter(office.writer, office.service))
        request = royalty_v1.OpenDisputeRequest(
            dispute_id="case-2", training_image_id=str(sample_work(1)), reason="no, mine"
        )
        assert (await late.open(request)).held_micros == 4 * PAID
    assert office.held() == 5 * PAID


class OvertakenWriter:
    """A writer before whose first decision another service opens a dispute."""

    def __init__(self, writer: LedgerWriter, other: DisputeService) -> None:
        self.writer = writer
        self.other = other

    async def decide(self, decision: Decide[Result]) -> Result:
        request = royalty_v1.OpenDisputeRequest(dispute_id="case-1", generation_id="g4", reason="mine")
        await self.other.open(request)
        return await self.writer.decide(decision)


async def test_refused_dispute_leaves_nothing(office: Office) -> None:
    before = office.ledger.head()
    request = royalty_v1.OpenDisputeRequest(dispute_id="a b", training_image_id=str(sample_work(1)), reason="mine")
    with pytest.raises(InvalidInput, match="dispute id"):
        await office.service.open(request)
    assert office.ledger.head() == before


async def test_call_posts_a_bounded_number_of_holds(office: Office) -> None:
    office.service = DisputeService(office.ledger, office.catalogue, office.writer, max_holds=1)
    first = await office.open("case-1")
    assert (first.held_micros, first.more_to_hold) == (PAID, True)
    with pytest.raises(GenerationConflict):
        await office.open("case-1", "g1")
    responses = [await office.open("case-1") for _ in range(4)]
    assert [response.held_micros for response in responses] == [PAID * number for number in (2, 3, 4, 5)]
    assert [response.more_to_hold for response in responses] == [True, True, True, False]
