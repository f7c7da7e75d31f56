"""Inserting rows on the driver's own cursor: SQLAlchemy builds the SQL once, as a statement costs it more than SQLite.

Many rows go into one statement. On SQLite that is one step of the library, and one time that the driver gives up the
interpreter and may get it back late; on PostgreSQL it is one message, sent with those of the same posting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection, Dialect, String, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gmvaluator.database.upsert import upserting_insert
from gmvaluator.ledger.schema import balances

Row = tuple[Any, ...]
"""Values in the order of a table's columns, as the driver takes them."""

MAX_PARAMETERS = 990
"""Values of one statement at most: the driver keeps statements, and longer ones are no faster."""

_SUMS_STEP = 16


class RowWriter:
    """Writes rows on a connection that is in a transaction."""

    def __init__(self, connection: Connection) -> None:
        driver = connection.dialect.loaded_dbapi
        # PostgreSQL calls a value that a column is too narrow for an error of data.
        self._refusals = (driver.IntegrityError, driver.DataError)
        self._cursor = connection.connection.cursor()
        self._on_sqlite = connection.dialect.name == "sqlite"
        self._together = nullcontext if self._on_sqlite else connection.connection.driver_connection.pipeline  # type: ignore[union-attr]

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What is written inside is undone if the database refuses a row. Raises IntegrityError.

        Any other error is left to whoever holds the transaction: SQLite may have rolled back all of it.
        """
        try:
            with self._together():
                self._cursor.execute("SAVEPOINT posting")
                yield
                self._cursor.execute("RELEASE SAVEPOINT posting")
        except self._refusals as error:
            self._cursor.execute("ROLLBACK TO SAVEPOINT posting")
            self._cursor.execute("RELEASE SAVEPOINT posting")
            raise IntegrityError(None, None, error) from error

    def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows that hold every column of `table`."""
        self._execute(table, rows, adding=False)

    def add_to_balances(self, sums: Sequence[Row]) -> None:
        """Add (account, micro-credits) to the balances of different accounts; one that is new begins at zero."""
        self._execute(balances, _filled_up(sums) if self._on_sqlite else sums, adding=True)

    def _execute(self, table: Table, rows: Sequence[Row], adding: bool) -> None:
        if not self._on_sqlite:
            if rows:
                self._cursor.execute(_unnesting(table, adding), [list(column) for column in zip(*rows, strict=True)])
            return
        most = MAX_PARAMETERS // len(table.columns)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            self._cursor.execute(_valued(table, adding, len(part)), list(chain.from_iterable(part)))


def _filled_up(sums: Sequence[Row]) -> list[Row]:
    """With nothing added to the last account, as often as a whole number of steps takes.

    The driver keeps 128 statements, and a long one takes tens of kilobytes: of one for each number of accounts it
    would keep megabytes, a little more every minute.
    """
    return [*sums, *[(account, 0) for account, _ in sums[-1:]] * (-len(sums) % _SUMS_STEP)]


@lru_cache(maxsize=4 * MAX_PARAMETERS)
def _valued(table: Table, adding: bool, rows: int) -> str:
    """SQLite's insert of `rows` rows, a question mark a value."""
    into, otherwise = _parts(table, adding, "sqlite")
    row = f"({', '.join('?' * len(table.columns))})"
    return f"{into} VALUES {', '.join([row] * rows)}{otherwise}"


@cache
def _unnesting(table: Table, adding: bool) -> str:
    """PostgreSQL's insert of any number of rows, an array a column."""
    into, otherwise = _parts(table, adding, "postgresql")
    arrays = ", ".join(f"%s::{_type(column)}[]" for column in table.columns)
    return f"{into} SELECT * FROM unnest({arrays}){otherwise}"  # noqa: S608 - our own names


def _parts(table: Table, adding: bool, engine: str) -> tuple[str, str]:
    """An insert's SQL before and after its values."""
    family = sqlite if engine == "sqlite" else postgresql
    dialect: Dialect = family.dialect(paramstyle="qmark")
    statement = upserting_insert(dialect, table)
    if adding:
        added = table.c.balance_micros + statement.excluded.balance_micros
        statement = statement.on_conflict_do_update(index_elements=["account"], set_={"balance_micros": added})
    into, _, values = str(statement.compile(dialect=dialect)).partition(" VALUES ")
    return into, values[values.index(")") + 1 :]


def _type(column: Column[Any]) -> str:
    if isinstance(column.type, String):
        return "text"
    return str(column.type.compile(postgresql.dialect()))  # type: ignore[no-untyped-call]
