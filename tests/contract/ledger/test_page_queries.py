"""Queries of the dashboard's pages, compared with sums over all entries; on both engines."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from gmvaluator.ids import generation_id
from gmvaluator.ledger.page_queries import (
    account_earnings,
    accounts_of_work,
    balances_of,
    count_attributions,
    count_owners,
    nearest_generations,
    newest_attributions,
    newest_qualities,
    posted_at,
    posting_at,
    sequences_at,
    sums_between,
    top_owners,
    work_earnings,
)
from gmvaluator.ledger.records import Entry, sum_by_account
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.testing.postings import sample_posting, sample_work

COUNT = 12


@pytest.fixture
def book(place: DataLocation) -> Iterator[Ledger]:
    with open_ledger(place, write=True) as ledger:
        for number in range(COUNT):
            ledger.post([sample_posting(number)])
        yield ledger


def test_top_owners_are_the_highest_balances(book: Ledger) -> None:
    every = list(book.owner_balances(limit=1_000).balances)
    with book.snapshot() as connection:
        assert (
            top_owners(connection, 3)
            == sorted(every, key=lambda balance: (-balance.balance_micros, balance.account))[:3]
        )
        assert count_owners(connection) == len(every)
        assert balances_of(connection, [every[0].account, "owner:nobody"]) == {
            every[0].account: every[0].balance_micros,
            "owner:nobody": 0,
        }


def test_sums_between_are_those_of_the_postings(book: Ledger) -> None:
    postings = list(book.every_posting())
    accounts = {entry.account for posting in postings for entry in posting.entries}
    expected = sum_by_account(entry for posting in postings[3:8] for entry in posting.entries)
    with book.snapshot() as connection:
        assert sums_between(connection, 3, 8, accounts) == expected
        assert count_attributions(connection, 3, 8) == 5


def test_a_sequence_is_found_by_its_time(book: Ledger) -> None:
    times = [from_utc_text(posting.header.posted_at) for posting in book.every_posting()]
    with book.snapshot() as connection:
        assert posted_at(connection, 5) == times[4]
        assert posted_at(connection, COUNT + 1) is None
        instants = [times[0] - timedelta(seconds=1), *times, times[-1] + timedelta(days=1)]
        sequences = sequences_at(connection, instants, 0, COUNT)
    assert sequences == [sum(time <= instant for time in times) for instant in instants]


def test_newest_come_first(book: Ledger) -> None:
    with book.snapshot() as connection:
        assert [posting.sequence for posting in newest_attributions(connection, 3)] == [12, 11, 10]
        assert [posting.sequence for posting in newest_attributions(connection, 3, after=11)] == [12]
        qualities = newest_qualities(connection, 2)
        assert qualities == [
            (posting.sequence, posting.evidence.quality_millionths / 1_000_000)
            for posting in newest_attributions(connection, 2)
        ]


def test_what_an_account_earned_is_its_entries(book: Ledger) -> None:
    postings = list(book.every_posting())
    account = next(entry.account for entry in postings[3].entries if entry.account.startswith("owner:"))
    own = [(posting, entry) for posting in postings for entry in posting.entries if entry.account == account]
    with book.snapshot() as connection:
        earned = account_earnings(connection, account, 100, 3)
        balance = balances_of(connection, [account])[account]
    assert sum(earned.by_day.values()) == sum(entry.amount_micros for _, entry in own) == balance
    assert sum(work.credit_micros for work in earned.works) == balance
    sequences = sorted({posting.sequence for posting, _ in own}, reverse=True)
    assert [use.sequence for use in earned.paid_generations] == sequences[:3]
    assert earned.generation_count == len(sequences)


def test_what_a_work_earned_is_its_entries(book: Ledger) -> None:
    postings = list(book.every_posting())
    work = next(entry.training_image_id for entry in postings[3].entries if entry.training_image_id)
    own = [(posting, entry) for posting in postings for entry in posting.entries if entry.training_image_id == work]
    with book.snapshot() as connection:
        earned = work_earnings(connection, work, 100)
        accounts = accounts_of_work(connection, work)
        assert work_earnings(connection, sample_work(999), 5).paid_generations == []
    assert sum(accounts.values()) == sum(entry.amount_micros for _, entry in own) == sum(earned.by_day.values())
    assert {use.sequence for use in earned.paid_generations} == {posting.sequence for posting, _ in own}
    amounts = [use.credit_micros for use in earned.paid_generations]
    assert amounts == sorted(amounts, reverse=True)


def test_postings_are_found_by_sequence(book: Ledger) -> None:
    with book.snapshot() as connection:
        posting = posting_at(connection, 4)
        assert posting is not None
        assert posting.sequence == 4
        assert posting_at(connection, 99) is None


def test_the_nearest_generations_of_a_work_are_those_of_the_evidence(book: Ledger) -> None:
    work = sample_work(3)
    expected = sorted(
        (contribution.distance_millionths, -posting.sequence, contribution.credit_micros)
        for posting in book.every_posting()
        for contribution in posting.evidence.contributions
        if contribution.training_image_id == work
    )
    with book.snapshot() as connection:
        every = nearest_generations(connection, work, 100)
        nearest = [(near.distance_millionths, -near.sequence, near.credit_micros) for near in every.generations]
        assert nearest == expected
        assert every.complete
        assert nearest_generations(connection, work, 1).generations == every.generations[:1]
        bounded = nearest_generations(connection, sample_work(0), 100, max_read=1)
        assert len(bounded.generations) <= 2
        assert nearest_generations(connection, sample_work(999), 100).generations == []


def test_a_work_that_is_listed_and_not_paid_is_found_too(place: DataLocation) -> None:
    with open_ledger(place, write=True) as ledger:
        worthless = replace(sample_posting(1), generation_id=generation_id("worthless"))
        evidence = worthless.evidence
        unpaid = [replace(contribution, credit_micros=0, payments=()) for contribution in evidence.contributions]
        unattributed = replace(
            evidence, contributions=tuple(unpaid), unattributed_micros=evidence.issued_micros, unattributed_share=1.0
        )
        entries = (
            Entry("issuance", None, -evidence.issued_micros), Entry("unattributed", None, evidence.issued_micros)
        )  # fmt: skip
        ledger.post([replace(worthless, evidence=unattributed, entries=entries)])
        with ledger.snapshot() as connection:
            (near,) = nearest_generations(connection, unpaid[0].training_image_id, 5).generations
    assert (near.sequence, near.credit_micros, near.distance_millionths) == (1, 0, unpaid[0].distance_millionths)
