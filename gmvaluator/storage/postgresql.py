"""PostgreSQL as the product opens it: a schema for each part, snapshots for readers, one writing transaction at a time.

A writing transaction begins by taking the schema's advisory lock and holds it until its commit, so that sequences
commit in their order and no reader's cursor skips one, however many programs write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError

from gmvaluator.errors import InvalidInput, Unavailable

READERS = 8
"""Reading connections at most per opened schema; a ninth reading thread waits."""

LOCK_TIMEOUT_MS = 60_000
"""How long a writing transaction waits for another program's before it gives up."""

IDLE_TIMEOUT_MS = 60_000
"""After this long without a word inside a transaction the server ends it, and lets the next writer in."""

_AWAY = ("08", "53300", "57P")
"""What codes of errors begin with that say: no connection, no connection left, the server is ending or starting."""

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
    """Engine over one connection that may write `schema`, which is made if it is not there.

    Every transaction begins by waiting for its turn. Raises InvalidInput if `url` is none of PostgreSQL's.
    """
    engine = _engine(url, schema, 1, _WRITING)
    event.listen(engine, "begin", _lock(schema))
    with engine.begin() as connection:
        if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": schema}).scalar() is None:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    # The dialect found out on its first connection, when there may have been no schema, what it is called.
    engine.dialect.default_schema_name = schema
    return engine


def reading_engine(url: str, schema: str) -> Engine:
    """Engine over connections that cannot write; each transaction is one snapshot. Raises InvalidInput."""
    return _engine(url, schema, READERS, (_READING,))


def checked_url(url: str) -> URL:
    """`url` for SQLAlchemy. Raises InvalidInput, without showing the password."""
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
    event.listen(engine, "handle_error", _say_unavailable)
    return engine


def _say_unavailable(context: ExceptionContext) -> None:
    """Raises Unavailable in place of what says that the server has gone, whoever was asking."""
    error = context.original_exception
    if context.is_pre_ping or not isinstance(error, psycopg.Error):
        return  # a connection of the pool that was cut meanwhile is replaced
    lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    if context.is_disconnect or lost or (error.sqlstate or "").startswith(_AWAY):
        raise Unavailable(
            f"PostgreSQL cannot be reached ({str(error).strip()}): ask again once it is back, or check DATABASE_URL"
        )


def _lock(schema: str) -> Callable[[Connection], None]:
    def lock(connection: Connection) -> None:
        connection.execute(_LOCK, {"schema": schema})

    return lock
