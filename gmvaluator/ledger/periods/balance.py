"""One account's kept balance."""

from __future__ import annotations

from sqlalchemy import Connection, select

from gmvaluator.ledger.schema import balances


def balance_of(connection: Connection, account: str) -> int:
    """Credits minus debits of an account now; 0 if it never had any."""
    found: int | None = connection.execute(
        select(balances.c.balance_micros).where(balances.c.account == account)
    ).scalar()
    return found or 0
