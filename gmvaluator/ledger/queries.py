"""Query fragments that several readers of the ledger share: sums of entries, joins and the filter of owners."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, FromClause, Select, cast, func, select

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.ledger.schema import decisions, entries, postings

amount_sum = cast(func.sum(entries.c.amount_micros), BigInteger)
"""Sum of the amounts of a group of entries, in micro-credits; without the cast PostgreSQL returns a decimal."""

concerned_sequence = func.coalesce(decisions.c.about_sequence, entries.c.sequence)
"""Sequence of the posting whose amounts an entry moves: a decision's entries count to the posting it is about."""

entries_and_postings = entries.join(postings, postings.c.sequence == entries.c.sequence)
"""Every entry with its posting."""

entries_and_decisions = entries.outerjoin(decisions, decisions.c.sequence == entries.c.sequence)
"""Every entry, with its decision if a decision moved it."""

# The first text that is greater than every owner's account: the prefix with its last character raised by one. A range
# of names uses the primary key of the balances; SQLite's LIKE ignores case and does not.
_AFTER_OWNERS = OWNER_PREFIX[:-1] + chr(ord(OWNER_PREFIX[-1]) + 1)


def is_owner(account: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the SQL condition that `account`, a column of account names, holds an owner's account."""
    return (account > OWNER_PREFIX) & (account < _AFTER_OWNERS)


def select_with_postings(*columns: Any) -> Select[Any]:
    """Return a query of `columns` of the entries, each joined with its posting."""
    return select(*columns).select_from(entries_and_postings)


def sums_by_account(
    connection: Connection, *conditions: ColumnElement[bool], source: FromClause = entries
) -> dict[str, int]:
    """Return the micro-credits of the entries that meet `conditions`, by account ascending; sums of zero are left out.

    source: the join to query where conditions concern more than `entries`.
    """
    query = select(entries.c.account, amount_sum).select_from(source).where(*conditions)
    query = query.group_by(entries.c.account).having(amount_sum != 0).order_by(entries.c.account)
    return dict(connection.execute(query).all())
