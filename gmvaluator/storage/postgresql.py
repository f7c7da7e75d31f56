"""PostgreSQL engines: one schema for each part, snapshots for readers, one writing transaction at a time.

A writing transaction first takes the schema's advisory lock and holds it until its commit. So sequence numbers commit
in order, and a reader that remembers the last one never skips a row, however many programs write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError

from gmvaluator.errors import InvalidInput, Unavailable

READERS = 8
"""Limit of reading connections per opened schema; further reading threads wait."""

LOCK_TIMEOUT_MS = 60_000
"""Timeout of a writing transaction that waits for another program's, milliseconds."""

IDLE_TIMEOUT_MS = 60_000
"""After this many idle milliseconds inside a transaction the server aborts it, which releases the lock."""

_UNAVAILABLE = ("08", "53300", "57P")
"""Prefixes of SQLSTATE codes: connection failure, too many connections, server shutting down or starting."""

_READING = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_WRITING = (
    # Each statement after the lock must see what the last holder committed; a snapshot would be taken before it.
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
    f"SET lock_timeout = {LOCK_TIMEOUT_MS}",
    f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}",
)
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('gmvaluator.' || :schema, 0))")


def writing_engine(url: str, schema: str) -> Engine:
    """Return an engine over the connection that writes `schema`, which is created if it is absent.

    Every transaction starts by waiting for the schema's lock. Raises InvalidInput if `url` is not a PostgreSQL URL.
    """
    engine = _engine(url, schema, 1, _WRITING)
    event.listen(engine, "begin", _lock(schema))
    with engine.begin() as connection:
        if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": schema}).scalar() is None:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    # The dialect asked for its default schema on the first connection, when there may have been none.
    engine.dialect.default_schema_name = schema
    return engine


def reading_engine(url: str, schema: str) -> Engine:
    """Return an engine over read-only connections; each transaction is one snapshot. Raises InvalidInput."""
    return _engine(url, schema, READERS, (_READING,))


def checked_url(url: str) -> URL:
    """Parse a PostgreSQL URL for SQLAlchemy. Raises InvalidInput, without the password in the message."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidInput("the database's URL cannot be read: give postgresql://USER:PASSWORD@HOST/NAME") from None
    if parsed.drivername not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise InvalidInput(f"{parsed.drivername} is no database we know: give postgresql://USER:PASSWORD@HOST/NAME")
    return parsed.set(drivername="postgresql+psycopg")


def _engine(url: str, schema: str, connections: int, settings: tuple[str, ...]) -> Engine:
    engine = create_engine(checked_url(url), pool_size=connections, max_overflow=0, pool_pre_ping=connections > 1)

    def prepare(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            for statement in (f"SET search_path TO {schema}", *settings):
                cursor.execute(statement)
        connection.commit()

    # First, before the dialect asks the connection what its default schema is.
    event.listen(engine, "connect", prepare, insert=True)
    event.listen(engine, "handle_error", _raise_unavailable)
    return engine


def _raise_unavailable(context: ExceptionContext) -> None:
    """Raise Unavailable instead of any error that means that the server cannot be reached."""
    import psycopg  # here, because every program imports this module, and most have their data in SQLite

    error = context.original_exception
    if context.is_pre_ping or not isinstance(error, psycopg.Error):
        return  # the pool replaces a connection that was cut meanwhile
    # libpq reports a failed connection attempt without a code.
    lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    if context.is_disconnect or lost or (error.sqlstate or "").startswith(_UNAVAILABLE):
        raise Unavailable(
            f"PostgreSQL cannot be reached ({str(error).strip()}): ask again once it is back, or check DATABASE_URL"
        )


def _lock(schema: str) -> Callable[[Connection], None]:
    def lock(connection: Connection) -> None:
        connection.execute(_LOCK, {"schema": schema})

    return lock
