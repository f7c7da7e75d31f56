"""Inserting rows on the driver's own cursor: built by SQLAlchemy once, since a statement costs it more than SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert
from sqlalchemy.exc import IntegrityError

from gmvaluator.database.upsert import upserting_insert
from gmvaluator.ledger.schema import balances

Row = tuple[Any, ...]
"""Values in the order of a table's columns, as the driver takes them."""

MAX_PARAMETERS = 990
"""Values of one statement at most; SQLite took 999 until 3.32."""


class RowWriter:
    """Writes rows on a connection that is in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._dialect = connection.dialect
        driver = connection.dialect.loaded_dbapi
        # PostgreSQL calls a value that a column is too narrow for an error of data.
        self._refusals = (driver.IntegrityError, driver.DataError)
        self._cursor = connection.connection.cursor()

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
        """Insert rows that hold every column of `table`; those that go into one statement stand or fall together."""
        self._execute(_inserting, table, rows)

    def add_to_balances(self, sums: Sequence[tuple[str, int]]) -> None:
        """Add to the balances of different accounts; an account that has none begins at zero."""
        self._execute(_adding_to, balances, sums)

    def _execute(self, statement: Callable[[Table, Dialect], str], table: Table, rows: Sequence[Row]) -> None:
        # Many rows a statement: the driver gives up the interpreter at each step, and a busy thread gives it back late.
        most = MAX_PARAMETERS // len(table.columns)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            self._cursor.execute(_repeated(statement(table, self._dialect), len(part)), list(chain.from_iterable(part)))


@cache
def _inserting(table: Table, dialect: Dialect) -> str:
    return _text(insert(table), dialect)


@cache
def _adding_to(table: Table, dialect: Dialect) -> str:
    statement = upserting_insert(dialect, table)
    added = table.c.balance_micros + statement.excluded.balance_micros
    return _text(statement.on_conflict_do_update(index_elements=["account"], set_={"balance_micros": added}), dialect)


def _text(statement: Any, dialect: Dialect) -> str:
    """SQL whose values go by position, in the order of the table's columns."""
    style = "qmark" if dialect.paramstyle == "qmark" else "format"
    return str(statement.compile(dialect=type(dialect)(paramstyle=style)))  # type: ignore[call-arg]


@lru_cache(maxsize=4 * MAX_PARAMETERS)
def _repeated(statement: str, rows: int) -> str:
    """An insert of one row as one of many."""
    before, values, after = statement.partition(" VALUES ")
    row = values + after[: after.index(")") + 1]
    rest = after[after.index(")") + 1 :]
    return before + row + f", {row.removeprefix(values)}" * (rows - 1) + rest
