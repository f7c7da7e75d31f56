"""Audit of closings and payouts: every amount that became money is computed again from the entries before it.

The rows themselves are checked by `Ledger.verify`. What is found here is a wrong decision: a period closed out of
order, on amounts that the ledger did not hold, or an owner paid what no closing made payable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, and_, case, or_, select

from gmvaluator.auth.signing import Signed
from gmvaluator.ledger.calendar import Calendar, Closing, Period, closings
from gmvaluator.ledger.decision import PAYOUT, Decision
from gmvaluator.ledger.payouts.closing import closed_amounts, disputed_since, payable_lines
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.queries import amount_sum, select_with_postings
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.results import Head, Problem, Verification
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.storage.schema import utc_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger

_PAYOUTS_PER_QUERY = 500


def verify_with_payments(
    book: Ledger, expected: Head | None = None, public_key: str | None = None, kept: Sequence[Signed] = ()
) -> Verification:
    """Check every row as `Ledger.verify` does, then every closing and payout."""
    result = book.verify(expected, public_key, kept)
    if not result.ok:
        return result
    with book.snapshot() as connection:
        return replace(result, first=next(payment_problems(connection), None))


def payment_problems(connection: Connection) -> Iterator[Problem]:
    """Yield each closing and each payout that does not follow from the postings before it.

    The postings themselves are assumed to be sound.
    """
    closed = closings(connection)
    yield from _order_problems(closed)
    yield from _closing_problems(connection, closed)
    yield from _payout_problems(connection, closed)


def _period(closing: Closing) -> Period:
    return Period.parse(closing.decision.links.period or "")


def _order_problems(closed: Sequence[Closing]) -> Iterator[Problem]:
    for before, closing in pairwise(closed):
        if _period(closing) != _period(before).next():
            what = f"period {_period(closing)} was closed after {_period(before)}, which does not precede it"
            yield Problem(closing.posting.sequence, None, what)


def _closing_problems(connection: Connection, closed: Sequence[Closing]) -> Iterator[Problem]:
    """Yield each closing whose amounts are not those of the ledger at its sequence."""
    sums = _sums_by_closing(connection, closed)
    balances: Counter[str] = Counter()
    calendar = Calendar({})
    for number, closing in enumerate(closed):
        period, sequence, facts = _period(closing), closing.posting.sequence, closing.decision.facts
        balances.update(sums.get(number, {}))
        disputed = disputed_since(connection, calendar, period, decisions.c.sequence < sequence)
        amounts = closed_amounts({name: amount for name, amount in balances.items() if amount}, disputed,
                                 Terms.from_dict(facts["terms"]))  # fmt: skip
        for account, stated, due in _differences(facts["payable"], amounts["payable"]):
            what = f"period {period} made {stated:,} micro-credits payable to {account}, of which {due:,} were due"
            yield Problem(sequence, None, what)
        if facts["balances"] != amounts["balances"]:
            yield Problem(sequence, None, f"period {period} was closed on other balances than the ledger held")
        calendar = Calendar({**calendar.closed_through, period: facts["closed_through"]})


def _differences(stated: Sequence[Sequence[object]], due: Sequence[Sequence[object]]) -> Iterator[tuple[str, int, int]]:
    """Yield (account, stated, due) micro-credits for the accounts whose lines differ."""
    lines = [{str(line[0]): line for line in part} for part in (stated, due)]
    for account in sorted(lines[0].keys() | lines[1].keys()):
        pair = [part.get(account, (account, 0, 0)) for part in lines]
        if list(pair[0]) != list(pair[1]):
            yield account, int(str(pair[0][1])), int(str(pair[1][1]))


def _sums_by_closing(connection: Connection, closed: Sequence[Closing]) -> dict[int, dict[str, int]]:
    """Return the sums of entries by the first closing that counts them, by its number and then by account."""
    if not closed:
        return {}
    # One pass over the entries, however many periods are closed.
    number = case(*((_counted_by(closing), position) for position, closing in enumerate(closed)))
    query = select_with_postings(number.label("number"), entries.c.account, amount_sum)
    sums: dict[int, dict[str, int]] = {}
    for position, account, amount in connection.execute(query.group_by(number, entries.c.account)):
        if position is not None:
            sums.setdefault(position, {})[account] = amount
    return sums


def _counted_by(closing: Closing) -> ColumnElement[bool]:
    # Generations that were posted after `closed_through` belong to a later period. Decisions were always to be counted:
    # one that stands between it and the closing was overlooked.
    sequence, facts = closing.posting.sequence, closing.decision.facts
    read = postings.c.sequence <= facts["closed_through"]
    decided = (postings.c.kind != ATTRIBUTION) & (postings.c.sequence < sequence)
    return and_(postings.c.generated_at < utc_text(_period(closing).end), or_(read, decided))


def _payout_problems(connection: Connection, closed: Sequence[Closing]) -> Iterator[Problem]:
    """Yield each payout of other amounts than the newest closing before it made payable."""
    payable = {
        (str(_period(closing)), account): (amount, minor)
        for closing in closed
        for account, amount, minor in payable_lines(closing)
    }
    for sequence, decision in _payouts(connection):
        period, facts = decision.links.period or "", decision.facts
        newest = max(
            (closing for closing in closed if closing.posting.sequence < sequence), key=_sequence, default=None
        )
        if newest is None or str(_period(newest)) != period:
            yield Problem(sequence, None, f"payout of {period} to {facts['account']}, which was not the newest closed")
        elif payable.get((period, facts["account"])) != (facts["amount_micros"], facts["amount_minor"]):
            what = f"payout of {facts['amount_micros']:,} micro-credits to {facts['account']}"
            yield Problem(sequence, None, f"{what}, which period {period} did not make payable")


def _sequence(closing: Closing) -> int:
    return closing.posting.sequence


def _payouts(connection: Connection) -> Iterator[tuple[int, Decision]]:
    after = 0
    while True:
        query = select(decisions.c.sequence).where(decisions.c.kind == PAYOUT, decisions.c.sequence > after)
        page = list(connection.execute(query.order_by(decisions.c.sequence).limit(_PAYOUTS_PER_QUERY)).scalars())
        where = postings_where(postings.c.sequence.in_(page)).order_by(postings.c.sequence)
        for posting in load_postings(connection, where):
            yield posting.sequence, Decision.from_json(posting.evidence_json)
        if len(page) < _PAYOUTS_PER_QUERY:
            return
        after = page[-1]
