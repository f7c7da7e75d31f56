"""SQLite engines and maintenance: WAL, one writing connection, read-only readers, online backup, and rewriting.

Every commit is synced. SQLite before 3.51.3 can corrupt a WAL database when two connections write and checkpoint at the
same time. Here only the one connection of `writing_engine` does either, whatever the version: `WriterLock` keeps other
processes out, and connections of `reading_engine` open the file read-only, so they cannot checkpoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool, StaticPool

from gmvaluator.errors import Conflict, Failure, MissingData, PreconditionFailed, Unavailable
from gmvaluator.files import private_file, sync

MINIMUM_VERSION = (3, 32, 0)
"""First SQLite that allows more than 999 values in a statement; a batch's queries have up to 5,000."""

BUSY_TIMEOUT_MS = 5_000
"""Timeout of a connection that waits for another one's lock, milliseconds."""

READERS = 8
"""Limit of read-only connections per open file; further reading threads wait."""

_WRITER_PRAGMAS = (
    "synchronous=FULL",
    "fullfsync=ON",
    "foreign_keys=ON",
    "recursive_triggers=ON",
    f"busy_timeout={BUSY_TIMEOUT_MS}",
)
_READER_PRAGMAS = ("query_only=ON", f"busy_timeout={BUSY_TIMEOUT_MS}")


def writing_engine(file: Path) -> Engine:
    """Return an engine over the only connection that writes `file`; the caller holds its writer lock.

    Every transaction takes the write lock at once (BEGIN IMMEDIATE). Not thread-safe. Raises PreconditionFailed if
    SQLite is too old or the file system does not support WAL.
    """
    _check_version()
    engine = create_engine("sqlite://", creator=lambda: _connect_writer(file), poolclass=StaticPool)
    return _begin_with(engine, "BEGIN IMMEDIATE")


def reading_engine(file: Path) -> Engine:
    """Return an engine over read-only connections to `file`, one per reading thread; a transaction is a snapshot."""
    _check_version()
    engine = create_engine(
        "sqlite://",
        creator=lambda: _open(file, "ro", _READER_PRAGMAS),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
    )
    _follow_file(engine, file)
    return _begin_with(engine, "BEGIN")


class OpenFiles:
    """The files of a database as they were opened: itself, its log and the log's index, by device and inode.

    A process goes on writing a file that was removed, renamed or replaced, and the next one does not find what it
    wrote. `writing_engine` has to have run a transaction before, which creates the log.
    """

    def __init__(self, file: Path) -> None:
        self._opened = {path: _identity(path) for path in (file, _beside(file, "-wal"), _beside(file, "-shm"))}

    def check(self) -> None:
        """Raise Unavailable, naming the file, if one is no longer where it was opened."""
        for path, identity in self._opened.items():
            if _identity(path) != identity:
                raise Unavailable(f"{path} was removed, renamed or replaced while it was open: put it back")


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _follow_file(engine: Engine, file: Path) -> None:
    """Replace pooled connections to a file that was removed or replaced meanwhile, when they are used next."""

    def remember(_: object, entry: ConnectionPoolEntry) -> None:
        entry.info["file"] = _identity(file)

    def check(_: object, entry: ConnectionPoolEntry, __: object) -> None:
        now = _identity(file)
        if now is None:
            # Not MissingData: a caller whose image is refused for good drops it.
            raise Unavailable(f"{file} was removed or renamed while it was open: put it back")
        if now != entry.info["file"]:
            raise DisconnectionError

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", check)


def _check_version() -> None:
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        raise PreconditionFailed(f"SQLite {sqlite3.sqlite_version} is too old: install {needed} or newer")


def _connect_writer(file: Path) -> sqlite3.Connection:
    private_file(file)  # SQLite gives the files of its log the same permissions
    connection = _open(file, "rw", ())
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        connection.close()
        raise PreconditionFailed(f"{file} cannot keep a write-ahead log ({mode}): use a local file system")
    _set(connection, _WRITER_PRAGMAS)
    return connection


def _open(file: Path, mode: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    address = f"file:{quote(str(file.absolute()))}?mode={mode}"
    # isolation_level None: `_begin_with` starts transactions, never the driver on its own.
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


def back_up(file: Path, target: Path) -> int:
    """Copy the database `file` to the new file `target`; return its size in bytes.

    The copy is one snapshot, complete, checked and durable on return; writers are not blocked. Raises Conflict if
    `target` exists, MissingData if `file` does not, Failure if the copy fails the integrity check.
    """
    if target.exists():
        raise Conflict(f"{target} exists: a backup never overwrites, name a new file")
    if not file.is_file():
        raise MissingData(f"there is no {file} to back up: name the data folder by --data")
    unfinished = target.with_name(target.name + ".unfinished")
    with _errors(file, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        _copy(file, unfinished)
        _make_durable(unfinished)
        unfinished.rename(target)
        sync(target.parent)
    return target.stat().st_size


def _copy(file: Path, copy: Path) -> None:
    address = f"file:{quote(str(file.absolute()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        # All pages in one step: one snapshot, which in WAL mode blocks no writer.
        source.backup(target, pages=-1)
        # One file, without a write-ahead log next to it.
        target.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = target.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise Failure(f"the copy of {file} is not sound ({verdict}): check the disk, and the database")


def _make_durable(copy: Path) -> None:
    copy.chmod(0o600)
    sync(copy)


@contextmanager
def _errors(file: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Failure(f"{file} cannot be backed up ({error}): check the disk") from error
    except OSError as error:
        raise PreconditionFailed(f"{target} cannot be written ({error.strerror}): name another file") from error


def rewrite(writer: Engine, tables: Sequence[str]) -> bool:
    """Rewrite a SQLite file and empty its log, or rewrite `tables` on PostgreSQL, so that no deleted row leaves bytes.

    Not within a transaction. False if SQLite's log could not be emptied because of a reader: its content goes when the
    next writer opens the file, or when this is called again.
    """
    if writer.dialect.name != "sqlite":
        with writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.exec_driver_sql(f"VACUUM FULL {table}")
        return True
    with closing(writer.raw_connection()) as raw, closing(raw.cursor()) as cursor:
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        row = cursor.fetchone()
        return bool(row is not None and row[0] == 0)
