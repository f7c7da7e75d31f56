"""Payouts: postings that move what a closed period made payable from the owners' accounts to `paid`."""

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
from gmvaluator.ledger.decisions.dispute_holds import Searched, hold_all, search_disputes
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.schema import balances, decisions, postings
from gmvaluator.ledger.transaction import LedgerTransaction

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Payout:
    """One owner's payout.

    amount_minor: minor units of the currency. status: "posted" by this call, "posted before", or "blocked" because the
    balance has fallen below amount_micros since the period was closed.
    """

    account: str
    amount_micros: int
    amount_minor: int
    status: str

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def pay(book: Ledger, period: Period, reason: str, decided_at: datetime, account: str | None = None) -> list[Payout]:
    """Post the payouts of the newest closed period, or only that of one account; repeating the call posts nothing.

    Raises PreconditionFailed if the period is not the newest closed one, because what earlier ones left unpaid was
    carried over into it, and NotFound if the period made nothing payable to the account.
    """
    searched = search_disputes(book)
    return book.decide(lambda transaction: _pay(transaction, searched, period, reason, decided_at, account))


def _pay(
    transaction: LedgerTransaction,
    searched: Searched,
    period: Period,
    reason: str,
    decided_at: datetime,
    account: str | None,
) -> list[Payout]:
    # Disputed credits must not be paid: hold those that were posted since the last hold.
    hold_all(transaction, searched, decided_at)
    closing = _newest_closing(transaction.connection, period)
    payable = [line for line in payable_lines(closing) if account in (None, line[0])]
    if not payable and account is not None:
        raise NotFound(f"period {period} made nothing payable to {account}")
    payouts = list(_planned(transaction.connection, period, payable))
    dated_at = dated(period, decided_at)
    due = [_decision(closing, period, payout, reason, dated_at) for payout in payouts if payout.status == "posted"]
    transaction.post(due)
    return payouts


def _newest_closing(connection: Connection, period: Period) -> Closing:
    newest = read_calendar(connection).last_closed
    if newest != period:
        raise PreconditionFailed(
            f"payouts are posted for the newest closed period, which is {newest or 'none'}, not {period}"
        )
    return closings(connection, period)[0]


def _planned(connection: Connection, period: Period, payable: list[tuple[str, int, int]]) -> Iterator[Payout]:
    query = select(postings.c.generation_id).join(decisions, decisions.c.sequence == postings.c.sequence)
    query = query.where(decisions.c.kind == PAYOUT, decisions.c.period == str(period))
    posted = set(connection.execute(query).scalars())
    current = {row.account: row.balance_micros for row in connection.execute(select(*balances.c))}
    for account, amount, minor in payable:
        if payout_id(period, account) in posted:
            yield Payout(account, amount, minor, "posted before")
        else:
            yield Payout(account, amount, minor, "posted" if current.get(account, 0) >= amount else "blocked")


def _decision(closing: Closing, period: Period, payout: Payout, reason: str, decided_at: datetime) -> NewDecision:
    terms = closing.decision.facts["terms"]
    facts = {
        "account": payout.account,
        "amount_micros": payout.amount_micros,
        "amount_minor": payout.amount_minor,
        "currency": terms["currency"],
        "minor_digits": terms["minor_digits"],
    }
    decision = Decision(PAYOUT, reason, facts, Links(period=str(period)))
    new_id = decision_id(*payout_id(period, payout.account).split("/"))
    return NewDecision(new_id, decided_at, decision, decision_entries(decision))


def dated(period: Period, decided_at: datetime) -> datetime:
    """Return the time of a payout of a period that is decided at `decided_at`."""
    # Within the next month at the latest, so that its closing counts the payout and does not make the same credits
    # payable once more.
    return min(decided_at, period.next().end - timedelta(microseconds=1))


def payout_id(period: Period, account: str) -> str:
    """Return the id of the decision that pays an account what a period made payable."""
    return f"{PAYOUT}/{period}/{owner_of(account)}"
