"""Random histories of a ledger: statements of consecutive months chain, and they sum to the ledger."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gmvaluator.auth.signing import Signer
from gmvaluator.ledger.calendar import Period, read_calendar
from gmvaluator.ledger.decisions.dispute_holds import decide_dispute, open_dispute
from gmvaluator.ledger.decisions.disputes import Scope, read_unsettled_disputes
from gmvaluator.ledger.decisions.reversal import reverse
from gmvaluator.ledger.payouts.closing import close
from gmvaluator.ledger.payouts.payouts import pay
from gmvaluator.ledger.payouts.statement import statements
from gmvaluator.ledger.payouts.statement_formats import statement_json
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.testing.postings import sample_posting, sample_work
from tests.support.scenes import is_sound

MONTHS = [Period(2026, month) for month in (1, 2, 3)]
AFTER = MONTHS[-1].next()
"""The open month, to which everything belongs that is posted after all months were closed."""

END = AFTER.start

events = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(1, 40), st.integers(0, 2)),
        st.tuples(st.just("post"), st.integers(1, 40), st.integers(0, 2)),
        st.tuples(st.just("dispute"), st.integers(0, 99), st.integers(0, 2)),
        st.tuples(st.just("settle"), st.just(0), st.integers(0, 2)),
        st.tuples(st.just("reverse"), st.integers(0, 40), st.integers(0, 2)),
        st.tuples(st.just("close"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("pay"), st.just(0), st.integers(0, 2)),
    ),
    max_size=14,
)


def apply_event(book: Ledger, folder: Path, event: str, number: int, month: int) -> None:
    at = datetime(2026, month + 1, 1 + number % 28, tzinfo=UTC)
    with book.snapshot() as connection:
        last = read_calendar(connection).last_closed
        unsettled = read_unsettled_disputes(connection)
    if event == "post":
        book.post([replace(sample_posting(number * 7919, contributors=6), generated_at=at)])
    elif event == "dispute":
        open_dispute(book, f"case-{number}", Scope(sample_work(number), None), "mine", at)
    elif event == "settle" and unsettled:
        decide_dispute(book, unsettled[0].dispute_id, None, "no", at)
    elif event == "reverse":
        every = book.every_posting()
        postings = [posting for posting in every if posting.header.kind == ATTRIBUTION and posting.header.issued_micros]
        if postings and not unsettled:
            reverse(book, postings[number % len(postings)], "wrong", at)
    elif event == "close" and last != MONTHS[-1]:
        terms = Terms("EUR", 2, 10_000_000 * number, 40 if number == 3 else None, 300_000)
        period = MONTHS[0] if last is None else last.next()
        close(book, period, terms, Signer(folder / "keys"), None, END, carry_disputes=True, confirmed_over=True)
    elif event == "pay" and last is not None:
        pay(book, last, "paid", at)


@settings(max_examples=25, deadline=None)
@given(events)
def test_statements_chain_and_sum_to_the_ledger(history: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name, open_ledger(Path(name), write=True) as book:
        fixed: dict[Period, list[str]] = {}
        for event, number, month in history:
            apply_event(book, Path(name), event, number, month)
            with book.snapshot() as connection:
                closed = list(read_calendar(connection).closed_through)
            for period in closed:
                exported = [statement_json(statement) for statement in statements(book, period, None)]
                assert fixed.setdefault(period, exported) == exported
        check_statements(book)


def check_statements(book: Ledger) -> None:
    by_month = {
        period: {statement.owner_id: statement for statement in statements(book, period, None)}
        for period in [*MONTHS, AFTER]
    }
    for month, following in pairwise(by_month.values()):
        closing = {owner: statement.movements.closing_micros for owner, statement in month.items()}
        opening = {owner: statement.movements.opening_micros for owner, statement in following.items()}
        assert without_zeros(closing) == without_zeros(opening)
    balances = {balance.owner_id: balance.balance_micros for balance in book.owner_balances(limit=1_000).balances}
    last = {owner: statement.movements.closing_micros for owner, statement in by_month[AFTER].items()}
    assert without_zeros(last) == without_zeros(balances)
    for statement in (statement for month in by_month.values() for statement in month.values()):
        assert statement.carry_over_micros + statement.payable_micros == statement.movements.closing_micros
    assert is_sound(book)


def without_zeros(amounts: Mapping[Any, int]) -> dict[Any, int]:
    return {owner: amount for owner, amount in amounts.items() if amount}
