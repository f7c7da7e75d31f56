"""Inserting rows on the driver's own cursor: built by SQLAlchemy once, since a statement costs it more than SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert
from sqlalchemy.exc import IntegrityError

from gmvaluator.database.upsert import upserting_insert
from gmvaluator.ledger.records import Entry
from gmvaluator.ledger.schema import balances, entries

Row = tuple[Any, ...]
"""Values in the order of a table's columns, as the driver takes them."""


class RowWriter:
    """Writes rows on a connection that is in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._dialect = connection.dialect
        driver = connection.dialect.loaded_dbapi
        # PostgreSQL calls a value that a column is too narrow for an error of data.
        self._refusals = (driver.IntegrityError, driver.DataError)
        self._cursor = connection.connection.cursor()
        self._work = _processor(entries.c.training_image_id.type, connection.dialect)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What is written inside is undone if the database refuses a row. Raises IntegrityError.

        Any other error is left to whoever holds the transaction: SQLite may have rolled back all of it.
        """
        self._cursor.execute("SAVEPOINT posting")
        try:
            yield
        except self._refusals as error:
            self._cursor.execute("ROLLBACK TO SAVEPOINT posting")
            self._cursor.execute("RELEASE SAVEPOINT posting")
            raise IntegrityError(None, None, error) from error
        self._cursor.execute("RELEASE SAVEPOINT posting")

    def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows that hold every column of `table`."""
        self._execute(_inserting(table, self._dialect), rows)

    def insert_entries(self, sequence: int, lines: Sequence[Entry]) -> None:
        """Insert the lines of one posting, numbered from 0."""
        work = self._work
        rows = [
            (sequence, line, entry.account, work(entry.training_image_id), entry.amount_micros)
            for line, entry in enumerate(lines)
        ]
        self._execute(_inserting(entries, self._dialect), rows)

    def add_to_balances(self, sums: Sequence[tuple[str, int]]) -> None:
        """Add to each account's balance; an account that has none begins at zero."""
        self._execute(_adding_to_balances(self._dialect), sums)

    def _execute(self, statement: str, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            self._cursor.execute(statement, rows[0])
        elif rows:
            self._cursor.executemany(statement, rows)


def _processor(kind: Any, dialect: Dialect) -> Callable[[Any], Any]:
    """From a value of ours to the driver's."""
    return kind.dialect_impl(dialect).bind_processor(dialect) or (lambda value: value)


@cache
def _inserting(table: Table, dialect: Dialect) -> str:
    return _text(insert(table), dialect)


@cache
def _adding_to_balances(dialect: Dialect) -> str:
    statement = upserting_insert(dialect, balances)
    added = balances.c.balance_micros + statement.excluded.balance_micros
    return _text(statement.on_conflict_do_update(index_elements=["account"], set_={"balance_micros": added}), dialect)


def _text(statement: Any, dialect: Dialect) -> str:
    """SQL whose values go by position, in the order of the table's columns."""
    style = "qmark" if dialect.paramstyle == "qmark" else "format"
    return str(statement.compile(dialect=type(dialect)(paramstyle=style)))  # type: ignore[call-arg]
