"""Sums of entries by account up to, and within, a period."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, not_, select

from gmvaluator.ledger.corrections.state import amount_sum
from gmvaluator.ledger.periods.calendar import Calendar, Period
from gmvaluator.ledger.records import OWNER_PREFIX
from gmvaluator.ledger.schema import decisions, entries, postings


def balances_at(connection: Connection, calendar: Calendar, period: Period) -> dict[str, int]:
    """Every account's balance at the end of a period, zeros left out. Reads all entries up to it."""
    return _by_account(connection, calendar.upto(period))


def changes_in(connection: Connection, calendar: Calendar, period: Period) -> dict[str, int]:
    """What each account gained or lost in a period."""
    return _by_account(connection, calendar.within(period))


def disputed_since(connection: Connection, calendar: Calendar, period: Period) -> dict[str, int]:
    """What disputes took after a period's end from each owner of what the period holds, and did not give back."""
    upto = calendar.upto(period)
    held_of = select(postings.c.sequence).where(upto).correlate(None)
    query = (
        select(entries.c.account, amount_sum)
        .select_from(
            decisions.join(postings, postings.c.sequence == decisions.c.sequence).join(
                entries, entries.c.sequence == decisions.c.sequence
            )
        )
        .where(decisions.c.dispute_id.is_not(None), not_(upto), decisions.c.about_sequence.in_(held_of))
        .group_by(entries.c.account)
        .having(amount_sum < 0)
    )
    return owners_only({row[0]: -row[1] for row in connection.execute(query)})


def owners_only(balances: dict[str, int]) -> dict[str, int]:
    """Those of the accounts that are owners'."""
    return {account: amount for account, amount in balances.items() if account.startswith(OWNER_PREFIX)}


def by_kind(balances: dict[str, int]) -> dict[str, int]:
    """Sums by kind of account, all owners as one; they sum to zero."""
    sums = {"owners": 0}
    for account, amount in sorted(balances.items()):
        kind = "owners" if account.startswith(OWNER_PREFIX) else account
        sums[kind] = sums.get(kind, 0) + amount
    return sums


def _by_account(connection: Connection, condition: ColumnElement[bool]) -> dict[str, int]:
    query = (
        select(entries.c.account, amount_sum)
        .select_from(entries.join(postings, postings.c.sequence == entries.c.sequence))
        .where(condition)
        .group_by(entries.c.account)
        .having(amount_sum != 0)
        .order_by(entries.c.account)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
