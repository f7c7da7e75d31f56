"""SQLite as the product opens it: WAL, every commit synced, one writing connection, read-only readers.

SQLite before 3.51.3 can corrupt a WAL database when two connections write and checkpoint at the same time. Here
only the one connection of `writing_engine` does either, whatever the version: processes are kept apart by
`writer_lock`, and a connection of `reading_engine` opens the file read-only, so it cannot checkpoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from gmvaluator.errors import PreconditionFailed

MINIMUM_VERSION = (3, 32, 0)
"""First SQLite that takes more than 999 values in a statement: a batch's look-ups have up to 5,000."""

BUSY_TIMEOUT_MS = 5_000
"""How long a connection waits for another one's lock before it gives up."""

READERS = 8
"""Read-only connections at most per open file; a ninth reading thread waits."""

_WRITER_PRAGMAS = (
    "synchronous=FULL",
    "fullfsync=ON",
    "foreign_keys=ON",
    "recursive_triggers=ON",
    f"busy_timeout={BUSY_TIMEOUT_MS}",
)
_READER_PRAGMAS = ("query_only=ON", f"busy_timeout={BUSY_TIMEOUT_MS}")


def writing_engine(file: Path) -> Engine:
    """Engine over the one connection that may write `file`; the caller holds its writer lock.

    Every transaction begins as a writer (BEGIN IMMEDIATE). Not for two threads at a time. Raises
    PreconditionFailed if SQLite is too old or the file system cannot do WAL.
    """
    _check_version()
    engine = create_engine("sqlite://", creator=lambda: _connect_writer(file), poolclass=StaticPool)
    return _begin_with(engine, "BEGIN IMMEDIATE")


def reading_engine(file: Path) -> Engine:
    """Engine over read-only connections to `file`, one per reading thread; each transaction is one snapshot."""
    _check_version()
    engine = create_engine(
        "sqlite://",
        creator=lambda: _open(file, "ro", _READER_PRAGMAS),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
    )
    return _begin_with(engine, "BEGIN")


def _check_version() -> None:
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        raise PreconditionFailed(f"SQLite {sqlite3.sqlite_version} is too old: install {needed} or newer")


def _connect_writer(file: Path) -> sqlite3.Connection:
    connection = _open(file, "rwc", ())
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        connection.close()
        raise PreconditionFailed(f"{file} cannot keep a write-ahead log ({mode}): use a local file system")
    _set(connection, _WRITER_PRAGMAS)
    return connection


def _open(file: Path, mode: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    address = f"file:{quote(str(file.absolute()))}?mode={mode}"
    # isolation_level None: transactions are begun by `_begin_with`, never by the driver behind our back.
    connection = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None)
    _set(connection, pragmas)
    return connection


def _set(connection: sqlite3.Connection, pragmas: tuple[str, ...]) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")


def _begin_with(engine: Engine, statement: str) -> Engine:
    begin: Callable[[Connection], object] = lambda connection: connection.exec_driver_sql(statement)  # noqa: E731
    event.listen(engine, "begin", begin)
    return engine
