"""Posting: exactly once per key, atomic, and readable by others at the same time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from gmvaluator.errors import (
    AlreadyHeld,
    GenerationConflict,
    InvalidInput,
    LedgerFailed,
    MissingData,
    NotFound,
    PreconditionFailed,
)
from gmvaluator.ids import GenerationId
from gmvaluator.ledger.hash_chain import GENESIS_HASH
from gmvaluator.ledger.records import Entry, NewPosting, StoredPosting
from gmvaluator.ledger.results import BalancePage, Head, Outcome, Posted, Refused, Replayed
from gmvaluator.ledger.schema import REVISION
from gmvaluator.ledger.store import FILE_NAME, Ledger, ledger_file, open_ledger
from gmvaluator.ledger.verification import replay
from gmvaluator.storage.database import Database, DataLocation, location_in
from gmvaluator.testing.postings import sample_posting, sample_work


@pytest.fixture
def ledger(place: DataLocation) -> Iterator[Ledger]:
    with open_ledger(place, write=True) as opened:
        yield opened


def posted(outcome: Outcome) -> StoredPosting:
    assert isinstance(outcome, Posted)
    return outcome.posting


def replayed(outcome: Outcome) -> StoredPosting:
    assert isinstance(outcome, Replayed)
    return outcome.posting


def refusal(outcome: Outcome) -> Exception:
    assert isinstance(outcome, Refused)
    return outcome.error


def unbalanced(posting: NewPosting) -> NewPosting:
    return replace(posting, entries=posting.entries[1:])


def test_what_was_posted_is_found_with_its_evidence(ledger: Ledger) -> None:
    new = sample_posting(1)
    stored = posted(ledger.post([new])[0])
    assert ledger.find("local", new.generation_id) == stored
    assert stored.sequence == 1
    assert stored.header.previous_hash == GENESIS_HASH
    assert stored.entries == new.entries
    assert stored.evidence == new.evidence
    assert replay(stored).equal
    assert ledger.find("other", new.generation_id) is None
    assert ledger.find("local", GenerationId("nothing")) is None


def test_postings_are_chained_in_the_order_of_the_batch(ledger: Ledger) -> None:
    outcomes = ledger.post([sample_posting(number) for number in range(3)]) + ledger.post([sample_posting(3)])
    made = [posted(outcome) for outcome in outcomes]
    assert [posting.sequence for posting in made] == [1, 2, 3, 4]
    assert [posting.header.previous_hash for posting in made] == [
        GENESIS_HASH,
        *(posting.hash for posting in made[:-1]),
    ]
    assert ledger.head() == Head(4, made[-1].hash)


def test_a_repeat_returns_the_stored_posting_and_writes_nothing(ledger: Ledger) -> None:
    first = posted(ledger.post([sample_posting(1)])[0])
    before = ledger.totals()
    again = replace(sample_posting(1), evidence=replace(sample_posting(1).evidence, timings_ms={"embed_ms": 99.0}))
    assert replayed(ledger.post([again])[0]) == first
    assert ledger.totals() == before


def test_the_same_key_twice_in_one_batch_is_one_posting(ledger: Ledger) -> None:
    first, second, third = ledger.post([sample_posting(1), sample_posting(2), sample_posting(1)])
    assert replayed(third) == posted(first)
    assert posted(second).sequence == 2
    assert ledger.totals().postings == 2


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (sample_posting(1, image="another"), "image_sha256"),
        (sample_posting(1, model_version="demo-2"), "model_version"),
    ],
)
@pytest.mark.parametrize("same_batch", [True, False])
def test_a_used_id_with_another_payload_is_refused_naming_the_field(
    ledger: Ledger, changed: NewPosting, field: str, same_batch: bool
) -> None:
    if same_batch:
        outcome = ledger.post([sample_posting(1), changed])[1]
    else:
        ledger.post([sample_posting(1)])
        outcome = ledger.post([changed])[0]
    error = refusal(outcome)
    assert isinstance(error, GenerationConflict)
    assert field in str(error)
    assert "generation-1" in str(error)
    assert ledger.totals().postings == 1


def test_the_same_id_of_another_identity_is_another_posting(ledger: Ledger) -> None:
    ledger.post([sample_posting(1), sample_posting(1, identity="studio", image="another")])
    assert ledger.totals().postings == 2
    with pytest.raises(InvalidInput, match="local, studio"):
        ledger.posting_of_generation("generation-1")
    assert ledger.posting_of_generation("generation-1", "studio").header.generator_identity == "studio"
    with pytest.raises(NotFound):
        ledger.posting_of_generation("generation-1", "nobody")


@pytest.mark.parametrize(
    "bad",
    [
        unbalanced(sample_posting(2)),
        replace(sample_posting(2), entries=(Entry("issuance", None, 0),)),
        replace(sample_posting(2), entries=(Entry("a", None, 10**16), Entry("b", None, -(10**16)))),
        replace(sample_posting(2), generator_identity=""),
        replace(sample_posting(2), generated_at=sample_posting(2).generated_at.replace(tzinfo=None)),
        replace(sample_posting(2), evidence=replace(sample_posting(2).evidence, timings_ms={"x": float("inf")})),
    ],
)
def test_a_bad_posting_is_refused_and_its_neighbours_are_made(ledger: Ledger, bad: NewPosting) -> None:
    first, second, third = ledger.post([sample_posting(1), bad, sample_posting(3)])
    assert isinstance(refusal(second), InvalidInput)
    assert (posted(first).sequence, posted(third).sequence) == (1, 2)
    assert ledger.totals().reconciles
    assert ledger.verify().ok


def test_what_only_the_database_refuses_leaves_its_neighbours_alone(ledger: Ledger) -> None:
    incomplete = replace(sample_posting(2), evidence=replace(sample_posting(2).evidence, profile_hash=None))  # type: ignore[arg-type]
    first, second, third = ledger.post([sample_posting(1), incomplete, sample_posting(3)])
    assert "postings_attribution_complete" in str(refusal(second))
    assert (posted(first).sequence, posted(third).sequence) == (1, 2)
    assert ledger.verify().ok
    assert posted(ledger.post([sample_posting(2)])[0]).sequence == 3


def test_a_hundred_concurrent_repeats_leave_one_posting(ledger: Ledger) -> None:
    start = threading.Barrier(100)

    def post(_: int) -> Outcome:
        start.wait()
        return ledger.post([sample_posting(1)])[0]

    with ThreadPoolExecutor(100) as pool:
        outcomes = list(pool.map(post, range(100)))
    assert sum(isinstance(outcome, Posted) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Replayed) for outcome in outcomes) == 99
    assert ledger.totals().postings == 1
    assert ledger.verify().ok


def test_readers_see_whole_postings_only_while_one_writes(ledger: Ledger, place: DataLocation) -> None:
    done = threading.Event()
    counts: list[int] = []

    def read() -> None:
        with open_ledger(place) as reader:
            while not done.is_set():
                totals = reader.totals()
                assert totals.reconciles
                assert [posting.sequence for posting in reader.postings_after(0, 1_000)][: totals.postings] == list(
                    range(1, totals.postings + 1)
                )
                counts.append(totals.postings)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for number in range(0, 120, 4):
            ledger.post([sample_posting(seed) for seed in range(number, number + 4)])
        done.set()
        for future in readers:
            future.result()
    assert all(count % 4 == 0 for count in counts)
    assert ledger.totals().postings == 120


def test_totals_and_pages_add_up(ledger: Ledger) -> None:
    batch = [sample_posting(number, contributors=20) for number in range(1, 40)]
    ledger.post(batch)
    totals = ledger.totals()
    assert totals.issued_micros == sum(posting.evidence.issued_micros for posting in batch)
    assert totals.reconciles
    assert min(totals.owners_micros, totals.suspense_micros, totals.held_micros) > 0
    sums: dict[str, int] = {}
    after = ""
    while page := ledger.balances(after, 2).balances:
        sums.update({balance.account: balance.balance_micros for balance in page})
        after = page[-1].account
    assert list(sums) == sorted(sums)
    assert sum(sums.values()) == totals.issued_micros
    assert all(ledger.balance(account).balances == ((account, amount),) for account, amount in sums.items())
    assert ledger.balance("owner:unknown") == BalancePage((), 39)
    owners = ledger.owner_balances(limit=1_000)
    assert owners.sequence == 39
    assert sum(balance.balance_micros for balance in owners.balances) == totals.owners_micros
    assert all(balance.owner_id is not None for balance in owners.balances)


def test_works_paid_counts_different_works(ledger: Ledger) -> None:
    batch = [sample_posting(number, contributors=20) for number in range(1, 40)]
    ledger.post(batch)
    expected: dict[str, set[object]] = {}
    for posting in batch:
        for entry in posting.entries:
            if entry.training_image_id is not None:
                expected.setdefault(entry.account, set()).add(entry.training_image_id)
    counted = ledger.count_works_paid(list(expected))
    assert counted == {account: len(works) for account, works in expected.items()}


def test_postings_after_a_sequence_come_in_order_without_gaps(ledger: Ledger) -> None:
    ledger.post([sample_posting(number) for number in range(10)])
    assert [posting.sequence for posting in ledger.postings_after(3, 4)] == [4, 5, 6, 7]
    assert ledger.postings_after(10) == []
    assert [posting.sequence for posting in ledger.every_posting()] == list(range(1, 11))
    assert sum(ledger.postings_after(0, 1)[0].changes().values()) == 0
    assert sum(ledger.postings_after(1, 1)[0].changes().values()) == 7919
    for limit in (0, 1_001):
        with pytest.raises(InvalidInput):
            ledger.postings_after(0, limit)


@pytest.mark.parametrize("table", ["postings", "entries", "evidence"])
@pytest.mark.parametrize("change", ["UPDATE {} SET sequence = sequence + 100", "DELETE FROM {}"])
def test_the_database_itself_refuses_to_change_history(place: DataLocation, table: str, change: str) -> None:
    with open_ledger(place, write=True) as ledger:
        ledger.post([sample_posting(1)])
    database = Database(location_in(place, FILE_NAME), REVISION, write=True)
    with pytest.raises(Exception, match="append-only"), database.writer.begin() as connection:
        connection.execute(text(change.format(table)))
    database.close()


def test_an_empty_batch_and_one_too_long(ledger: Ledger) -> None:
    assert ledger.post([]) == []
    with pytest.raises(InvalidInput, match="1000 at most"):
        ledger.post([sample_posting(1)] * 1_001)
    assert posted(ledger.post([sample_posting(1)])[0]).sequence == 1


def test_after_a_failed_write_nothing_is_taken_until_a_restart(tmp_path: Path) -> None:
    database = Database(ledger_file(tmp_path), REVISION, write=True)
    ledger = Ledger(database)
    ledger.post([sample_posting(1)])
    with database.writer.connect() as connection:
        # The disk is full from here on.
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerFailed, match="full"):
        ledger.post([sample_posting(number) for number in range(2, 60)])
    with database.writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    with pytest.raises(LedgerFailed, match="stopped after an error"):
        ledger.post([sample_posting(2)])
    assert ledger.totals().postings == 1
    ledger.close()
    with open_ledger(tmp_path, write=True) as reopened:
        assert isinstance(reopened.post([sample_posting(1)])[0], Replayed)
        assert isinstance(reopened.post([sample_posting(2)])[0], Posted)
        assert reopened.verify().ok


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True), pytest.raises(AlreadyHeld, match="process"):
        open_ledger(tmp_path, write=True)


def test_many_readers_and_none_of_them_writes(ledger: Ledger, place: DataLocation) -> None:
    with open_ledger(place) as first, open_ledger(place) as second:
        assert first.totals() == second.totals()
        with pytest.raises(PreconditionFailed, match="write=True"):
            first.post([sample_posting(1)])


def test_a_missing_ledger_says_what_to_do(place: DataLocation) -> None:
    with pytest.raises(MissingData, match="there is no ledger"):
        open_ledger(place)
    assert list(place.folder.iterdir()) == []


def test_a_new_ledger_is_empty_and_whole(ledger: Ledger) -> None:
    totals = ledger.totals()
    assert (totals.postings, totals.issued_micros, totals.reconciles) == (0, 0, True)
    assert totals.head == Head(0, GENESIS_HASH)
    assert ledger.balances().balances == ()
    assert ledger.count_works_paid([str(sample_work(1))]) == {}
    assert ledger.verify().ok
