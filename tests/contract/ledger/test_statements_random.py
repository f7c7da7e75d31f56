"""Random months: whatever is posted, disputed, reversed, closed and paid, statements chain and sum to the ledger."""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

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
from gmvaluator.ledger.verification import replay
from gmvaluator.testing.postings import sample_posting, sample_work

MONTHS = [Period(2026, month) for month in (1, 2, 3)]
AFTER = MONTHS[-1].next()
"""Takes in what comes when all the months are closed."""

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


def happen(book: Ledger, folder: Path, what: str, number: int, month: int) -> None:
    at = datetime(2026, month + 1, 1 + number % 28, tzinfo=UTC)
    with book.snapshot() as connection:
        last = read_calendar(connection).last_closed
        waiting = read_unsettled_disputes(connection)
    if what == "post":
        book.post([replace(sample_posting(number * 7919, contributors=6), generated_at=at)])
    elif what == "dispute":
        open_dispute(book, f"case-{number}", Scope(sample_work(number), None), "mine", at)
    elif what == "settle" and waiting:
        decide_dispute(book, waiting[0].dispute_id, None, "no", at)
    elif what == "reverse":
        postings = [one for one in book.every_posting() if one.header.kind == ATTRIBUTION and one.header.issued_micros]
        if postings and not waiting:
            reverse(book, postings[number % len(postings)], "wrong", at)
    elif what == "close" and last != MONTHS[-1]:
        terms = Terms("EUR", 2, 10_000_000 * number, 40 if number == 3 else None, 300_000)
        period = MONTHS[0] if last is None else last.next()
        close(book, period, terms, Signer(folder / "keys"), None, END, carry_disputes=True)
    elif what == "pay" and last is not None:
        pay(book, last, "paid", at)


@settings(max_examples=25, deadline=None)
@given(events)
def test_statements_chain_and_sum_to_the_ledger(history: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name, open_ledger(Path(name), write=True) as book:
        fixed: dict[Period, list[str]] = {}
        for what, number, month in history:
            happen(book, Path(name), what, number, month)
            with book.snapshot() as connection:
                closed = list(read_calendar(connection).closed_through)
            for period in closed:
                exported = [statement_json(one) for one in statements(book, period, None)]
                assert fixed.setdefault(period, exported) == exported
        check(book)


def check(book: Ledger) -> None:
    found = {period: {one.owner_id: one for one in statements(book, period, None)} for period in [*MONTHS, AFTER]}
    for before, after in pairwise([*MONTHS, AFTER]):
        closing = {owner: one.movements.closing_micros for owner, one in found[before].items()}
        opening = {owner: one.movements.opening_micros for owner, one in found[after].items()}
        assert {key: value for key, value in closing.items() if value} == {
            key: value for key, value in opening.items() if value
        }
    owners = {one.owner_id: one.balance_micros for one in book.owner_balances(limit=1_000).balances}
    last = {owner: one.movements.closing_micros for owner, one in found[AFTER].items()}
    assert {key: value for key, value in last.items() if value} == {
        key: value for key, value in owners.items() if value
    }
    for one in (one for of_period in found.values() for one in of_period.values()):
        assert one.carry_over_micros + one.payable_micros == one.movements.closing_micros
    assert all(replay(posting).equal for posting in book.every_posting())
    assert book.totals().reconciles
    assert book.verify().ok
