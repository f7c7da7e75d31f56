"""Disputes that owners open by themselves: only about what concerns them, only so many, and decided together."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from attributor.core.disputes import DisputeService
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.disputes import dispute as command
from gmvaluator.errors import Forbidden, NotFound, Overloaded
from gmvaluator.ids import OwnerId
from gmvaluator.ledger.decisions.dispute_holds import open_dispute
from gmvaluator.ledger.decisions.disputes import Scope, read_dispute
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.store import Ledger, decision_time, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_work
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from tests.support.scenes import OCTOBER, attribute, balances, import_rights, owner_named, record, sha256_of, work


@dataclass
class Office:
    """A dispute service, and the ledger that it uses."""

    service: DisputeService
    ledger: Ledger
    ada: OwnerId
    bob: OwnerId
    cleo: OwnerId

    async def open(
        self, owner: OwnerId, dispute_id: str, work_number: int | None = None, generation: str = ""
    ) -> royalty_v1.OpenDisputeResponse:
        """Open a dispute with the owner's own token."""
        request = royalty_v1.OpenDisputeRequest(
            dispute_id=dispute_id,
            training_image_id="" if work_number is None else str(sample_work(work_number)),
            generation_id=generation,
            claimant=f"owner:{owner}",
            reason="mine",
        )
        return await self.service.open(request, owner)


@pytest.fixture
async def office(place: DataLocation, tmp_path: Path) -> AsyncIterator[Office]:
    """Open an office whose ledger pays Ada, Bob and Cleo for works 1, 2 and 3; since then Cleo claims work 1, too."""
    record(place, work(1, "ada"), work(2, "bob"), work(3, "cleo"))
    with open_ledger(place, write=True) as book:
        for number in range(3):
            attribute(place, f"g{number}", [1, 2, 3], OCTOBER, book=book)
        attribute(place, "of-ada-alone", [1], OCTOBER, book=book)
    import_rights(place, tmp_path, f"sha256,owner_id,share_ppm\n{sha256_of(1)},cleo,1000000\n", partial=True)
    owners = [owner_named(place, name) for name in ("ada", "bob", "cleo")]
    async with AsyncExitStack() as stack:
        writer = LedgerWriter(lambda: open_ledger(place, write=True), lambda error: None)
        writer.start()
        stack.callback(writer.close)
        ledger = stack.enter_context(open_ledger(place))
        catalogue = stack.enter_context(open_catalogue(place))
        yield Office(DisputeService(ledger, catalogue, writer, max_per_month=3), ledger, *owners)


@pytest.mark.parametrize(
    ("work_number", "generation"),
    [(1, ""), (3, ""), (1, "g0"), (None, "of-ada-alone"), (1, "of-ada-alone")],
)
async def test_an_owner_disputes_nothing_that_does_not_concern_it(
    office: Office, work_number: int | None, generation: str
) -> None:
    with pytest.raises(Forbidden, match="no claim of yours"):
        await office.open(office.bob, "case-1", work_number, generation)
    assert "held" not in balances(office.ledger)
    with office.ledger.snapshot() as connection, pytest.raises(NotFound):
        read_dispute(connection, "case-1")


async def test_a_claim_gives_standing_and_holds_what_others_got_for_that_work(office: Office) -> None:
    before = balances(office.ledger)
    opened = await office.open(office.cleo, "case-1", 1)
    after = balances(office.ledger)
    assert opened.held_micros == before[f"owner:{office.ada}"] == after["held"]
    assert {name: after[name] for name in (f"owner:{office.bob}", f"owner:{office.cleo}")} == {
        name: before[name] for name in (f"owner:{office.bob}", f"owner:{office.cleo}")
    }


async def test_in_a_generation_only_the_disputed_part_is_held(office: Office, place: DataLocation) -> None:
    before = balances(office.ledger)
    opened = await office.open(office.cleo, "case-1", generation="g0")
    after = balances(office.ledger)
    assert after["held"] == opened.held_micros == before[f"owner:{office.ada}"] - after[f"owner:{office.ada}"] > 0
    assert after[f"owner:{office.bob}"] == before[f"owner:{office.bob}"]
    assert await office.open(office.cleo, "case-1", generation="g0") == opened
    assert (await office.open(office.bob, "case-2", generation="g0")).held_micros == 0
    assert office.ledger.verify().ok


async def test_an_owner_opens_a_bounded_number_of_disputes_a_month(office: Office) -> None:
    for number in range(3):
        await office.open(office.cleo, f"case-{number}", generation=f"g{number}")
    with pytest.raises(Overloaded, match="3 allowed") as refused:
        await office.open(office.cleo, "case-3", 1)
    assert refused.value.retry_after_ms == -1  # sending it again changes nothing
    assert (await office.open(office.cleo, "case-2", generation="g2")).held_micros > 0
    await office.open(office.bob, "case-4", 2)
    request = royalty_v1.OpenDisputeRequest(dispute_id="case-5", training_image_id=str(sample_work(1)), reason="theirs")
    assert (await office.service.open(request)).held_micros > 0  # the operator


async def test_the_limits_of_concurrent_calls_are_those_of_calls_in_turn(office: Office) -> None:
    calls = (office.open(office.cleo, f"case-{number}", generation="g0") for number in range(6))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 3


def test_a_scope_without_works_is_stored_as_before() -> None:
    scope = Scope(sample_work(1), 7)
    assert set(scope.as_dict()) == {"training_image_id", "generation_sequence", "claimant"}
    limited = Scope(None, 7, works=(sample_work(1), sample_work(2)))
    assert Scope.from_dict(limited.as_dict()) == limited
    assert [limited.covers(sample_work(number)) for number in (1, 3)] == [True, False]


def test_many_disputes_are_decided_by_one_command(tmp_path: Path) -> None:
    place = DataLocation(tmp_path)
    record(place, work(1, "ada"), work(2, "bob"))
    with open_ledger(place, write=True) as book:
        for number in range(4):
            attribute(place, f"g{number}", [1], OCTOBER, book=book)
        bob = owner_named(place, "bob")
        for number in range(4):
            scope = Scope(None, number + 1, bob if number else None)
            open_dispute(book, f"case-{number}", scope, "mine", decision_time())
    words = ["decide", "--reject", "--reason", "a stolen token", "--data", str(tmp_path), "--json"]

    def decided(*more: str) -> tuple[int, list[str]]:
        done = CliRunner().invoke(command, [*words, *more])
        lines = done.stdout.splitlines() if done.exit_code == 0 else []
        return done.exit_code, [json.loads(line)["dispute_id"] for line in lines]

    assert decided("case-1", "--claimant", str(bob))[0] != 0
    assert decided()[0] != 0
    assert decided("case-1", "case-9")[0] != 0
    assert decided("case-1", "case-1") == (0, ["case-1"])
    assert decided("--claimant", str(bob)) == (0, ["case-2", "case-3"])
    assert decided("--claimant", str(bob))[0] != 0
    with open_ledger(place) as book:
        assert balances(book)["held"] == 1_000_000
