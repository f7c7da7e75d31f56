"""Payouts: what a closed period made payable leaves the owners' accounts for `paid`, a posting for each owner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from gmvaluator.accounts import owner_of
from gmvaluator.errors import NotFound, PreconditionFailed
from gmvaluator.ledger.calendar import Closing, Period, closings, read_calendar
from gmvaluator.ledger.decision import PAYOUT, Decision, Links, NewDecision, decision_id
from gmvaluator.ledger.decision_effects import decision_entries
from gmvaluator.ledger.decisions.dispute_holds import hold_all
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.schema import balances, decisions, postings
from gmvaluator.ledger.store import post_decisions

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Payout:
    """One owner's payout. status: "posted" now, "posted before", or "blocked": the balance fell below it since."""

    account: str
    amount_micros: int
    amount_minor: int
    status: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def pay(book: Ledger, period: Period, reason: str, decided_at: datetime, account: str | None = None) -> list[Payout]:
    """Post the payouts of the newest closed period, or that of one account; doing it again posts nothing.

    Disputes hold what came in since first. Raises PreconditionFailed if the period is not the newest closed one:
    what an earlier one left unpaid was carried over into it. They are dated within the month after it at the latest,
    so that its closing does not make the same credits payable once more.
    """
    hold_all(book, decided_at)
    with book.snapshot() as connection:
        closing = _newest_closing(connection, period)
        payable = [line for line in payable_lines(closing) if account in (None, line[0])]
        if not payable and account is not None:
            raise NotFound(f"period {period} made nothing payable to {account}")
        planned = list(_planned(connection, period, payable))
    when = min(decided_at, period.next().end - timedelta(microseconds=1))
    due = [_payout(closing, period, one, reason, when) for one in planned if one.status == "posted"]
    post_decisions(book, due)
    return planned


def _newest_closing(connection: Connection, period: Period) -> Closing:
    newest = read_calendar(connection).last_closed
    if newest != period:
        raise PreconditionFailed(
            f"payouts are posted for the newest closed period, which is {newest or 'none'}, not {period}"
        )
    return closings(connection, period)[0]


def _planned(connection: Connection, period: Period, payable: list[tuple[str, int, int]]) -> Iterator[Payout]:
    paid = select(postings.c.generation_id).join(decisions, decisions.c.sequence == postings.c.sequence)
    before = set(
        connection.execute(paid.where(decisions.c.kind == PAYOUT, decisions.c.period == str(period))).scalars()
    )
    now = {row.account: row.balance_micros for row in connection.execute(select(*balances.c))}
    for account, amount, minor in payable:
        if _payout_id(period, account) in before:
            yield Payout(account, amount, minor, "posted before")
        else:
            yield Payout(account, amount, minor, "posted" if now.get(account, 0) >= amount else "blocked")


def _payout(closing: Closing, period: Period, one: Payout, reason: str, decided_at: datetime) -> NewDecision:
    terms = closing.decision.facts["terms"]
    facts = {
        "account": one.account,
        "amount_micros": one.amount_micros,
        "amount_minor": one.amount_minor,
        "currency": terms["currency"],
        "minor_digits": terms["minor_digits"],
    }
    decision = Decision(PAYOUT, reason, facts, Links(period=str(period)))
    number = decision_id(*_payout_id(period, one.account).split("/"))
    return NewDecision(number, decided_at, decision, decision_entries(decision))


def _payout_id(period: Period, account: str) -> str:
    return f"{PAYOUT}/{period}/{owner_of(account)}"
