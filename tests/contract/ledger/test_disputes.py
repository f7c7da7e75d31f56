"""Disputes: opening, holding, deciding and settling, each by postings with an id and a reason."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Connection

from gmvaluator.errors import GenerationConflict, InvalidInput, NotFound
from gmvaluator.ids import OwnerId
from gmvaluator.ledger.current_amounts import CurrentAmounts, read_current_amounts
from gmvaluator.ledger.decisions import dispute_holds
from gmvaluator.ledger.decisions.dispute_holds import (
    decide_dispute,
    due_holds,
    hold,
    hold_all,
    open_dispute,
    search_disputes,
)
from gmvaluator.ledger.decisions.disputes import (
    Dispute,
    Scope,
    checked_award,
    opening_decision,
    read_dispute,
    read_disputes,
    read_unsettled_disputes,
)
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_owner, sample_work
from tests.support.scenes import (
    DECEMBER,
    NOVEMBER,
    OCTOBER,
    attribute,
    balances,
    is_sound,
    owner_named,
    post_decisions,
    record,
    work,
)


@pytest.fixture
def filled(place: DataLocation) -> DataLocation:
    """Ada's work 1 in three generations, Ben's work 2 in one of them."""
    record(place, work(1, "ada"), work(2, "ben"), work(3, "cleo"))
    with open_ledger(place, write=True) as book:
        for name, works in (("g1", [1]), ("g2", [1, 2]), ("g3", [1])):
            attribute(place, name, works, OCTOBER, book=book)
    return place


def account(place: DataLocation, name: str) -> str:
    return f"owner:{owner_named(place, name)}"


def test_disputed_work_is_held_and_awarded(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        before = balances(book)
        scope = Scope(sample_work(1), None, owner_named(filled, "cleo"))
        opened = open_dispute(book, "case-1", scope, "drawn by me", NOVEMBER)
        assert (opened.open, opened.held_micros) == (True, 2_500_250)
        assert balances(book) == {"held": 2_500_250, account(filled, "ben"): 499_750}
        attribute(filled, "g4", [1], NOVEMBER, book=book)
        assert hold(book, "case-1", NOVEMBER).held_micros == 3_500_250
        searched = search_disputes(book)
        assert book.decide(lambda transaction: hold_all(transaction, searched, NOVEMBER)) == 0
        award = checked_award([(owner_named(filled, "cleo"), 700_000), (owner_named(filled, "ada"), 300_000)])
        decided = decide_dispute(book, "case-1", award, "shown by sketches", DECEMBER)
        assert (decided.open, decided.held_micros, decided.as_dict()["status"]) == (False, 0, "upheld")
        after = balances(book)
        assert after[account(filled, "cleo")] == 2_450_175
        assert after[account(filled, "ada")] == 1_050_075
        assert sum(after.values()) == sum(before.values()) + 1_000_000
        assert unsettled_disputes_of(book) == []
        assert is_sound(book)


def test_rejected_dispute_returns_everything(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        before = balances(book)
        open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", NOVEMBER)
        decided = decide_dispute(book, "case-1", None, "nothing was shown", DECEMBER)
        assert decided.as_dict()["status"] == "rejected"
        assert balances(book) == before
        again = decide_dispute(book, "case-1", None, "nothing was shown", DECEMBER)
        assert again == decided
        with pytest.raises(GenerationConflict):
            decide_dispute(book, "case-1", None, "another reason", DECEMBER)
        assert is_sound(book)


def test_dispute_about_one_generation_or_one_work_of_it(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        sequence = book.posting_of_generation("g2").sequence
        whole = open_dispute(book, "case-1", Scope(None, sequence), "not ours", NOVEMBER)
        assert whole.held_micros == 1_000_000
        decide_dispute(book, "case-1", None, "they are", NOVEMBER)
        part = open_dispute(book, "case-2", Scope(sample_work(2), sequence), "not ours", NOVEMBER)
        assert part.held_micros == 499_750
        assert [dispute.dispute_id for dispute in disputes_of(book)] == ["case-1", "case-2"]
        assert [dispute.dispute_id for dispute in unsettled_disputes_of(book)] == ["case-2"]
        assert is_sound(book)


def test_credits_of_the_claimant_are_not_held(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        scope = Scope(sample_work(1), None, owner_named(filled, "ada"))
        assert open_dispute(book, "case-1", scope, "all of it is mine", NOVEMBER).held_micros == 0


def test_two_disputes_do_not_hold_the_same_credits_twice(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        before = balances(book)
        first = open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", NOVEMBER)
        second = open_dispute(book, "case-2", Scope(sample_work(1), None), "no, mine", NOVEMBER)
        assert (first.held_micros, second.held_micros) == (2_500_250, 0)
        decide_dispute(book, "case-1", None, "no", DECEMBER)
        assert hold(book, "case-2", DECEMBER).held_micros == 2_500_250
        decide_dispute(book, "case-2", None, "no", DECEMBER)
        assert balances(book) == before
        assert is_sound(book)


def test_what_was_posted_or_opened_since_a_search_is_held_too(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", NOVEMBER)
        open_dispute(book, "case-2", Scope(sample_work(2), None), "mine", NOVEMBER)
        searched = search_disputes(book)
        attribute(filled, "g4", [1], NOVEMBER, book=book)
        decide_dispute(book, "case-2", None, "nothing was shown", NOVEMBER)
        open_dispute(book, "case-3", Scope(None, 4), "mine", NOVEMBER)
        decide_dispute(book, "case-3", None, "nothing was shown", NOVEMBER)
        post_decisions(book, [opening_decision("case-4", Scope(sample_work(2), None), "mine", NOVEMBER)])
        assert book.decide(lambda transaction: hold_all(transaction, searched, NOVEMBER)) == 2
        assert balances(book) == {"held": 4_000_000}
        assert book.decide(lambda transaction: hold_all(transaction, searched, NOVEMBER)) == 0
        assert is_sound(book)


def test_limited_holds_read_no_posting_after_the_last_hold(
    filled: DataLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Sequence[int]] = []

    def read_and_record(connection: Connection, sequences: Sequence[int]) -> list[CurrentAmounts]:
        batches.append(list(sequences))
        return read_current_amounts(connection, sequences)

    monkeypatch.setattr(dispute_holds, "read_current_amounts", read_and_record)
    with open_ledger(filled, write=True) as book:
        post_decisions(book, [opening_decision("case-1", Scope(sample_work(1), None), "mine", NOVEMBER)])
        with book.snapshot() as connection:
            dispute = read_dispute(connection, "case-1")
            holds = due_holds(connection, dispute, NOVEMBER, limit=2, postings_per_query=1)
    assert len(holds) == 2
    assert batches == [[3], [2]]


def test_dispute_id_names_one_dispute(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        first = open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", NOVEMBER)
        assert open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", DECEMBER) == first
        with pytest.raises(GenerationConflict, match="training_image_id"):
            open_dispute(book, "case-1", Scope(sample_work(2), None), "mine", NOVEMBER)
        with pytest.raises(NotFound, match="case-9"):
            hold(book, "case-9", NOVEMBER)


def test_invalid_disputes_are_refused(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        for dispute_id, reason in (
            ("a b", "x"),
            ("", "x"),
            ("a/b", "x"),
            ("a" * 101, "x"),
            ("ok", " "),
            ("ok", "\x1b"),
        ):
            with pytest.raises(InvalidInput):
                open_dispute(book, dispute_id, Scope(sample_work(1), None), reason, NOVEMBER)
        assert disputes_of(book) == []
    with pytest.raises(InvalidInput, match="training image or a generation"):
        Scope(None, None)


def test_awards_sum_to_one() -> None:
    first, second = sample_owner(1), sample_owner(2)
    wrong: list[list[tuple[OwnerId, int]]] = [
        [],
        [(first, 999_999)],
        [(first, 500_000)] * 2,
        [(first, 0), (second, 1_000_000)],
    ]
    for parts in wrong:
        with pytest.raises(InvalidInput, match="1,000,000"):
            checked_award(parts)
    assert sum(share for _, share in checked_award([(first, 1), (second, 999_999)])) == 1_000_000


def disputes_of(book: Ledger) -> list[Dispute]:
    with book.snapshot() as connection:
        return list(read_disputes(connection))


def unsettled_disputes_of(book: Ledger) -> list[Dispute]:
    with book.snapshot() as connection:
        return list(read_unsettled_disputes(connection))
