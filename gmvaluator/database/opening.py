"""A database file as a program holds it: read-only connections and, in its one writer, the writing one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from gmvaluator.database.revision import SchemaRevision, check_revision, migrate
from gmvaluator.database.sqlite import reading_engine, writing_engine
from gmvaluator.database.writer_lock import WriterLock
from gmvaluator.errors import Failure, MissingData, PreconditionFailed


class Database:
    """Engines over one file, at the schema's revision. `reader` serves any thread."""

    def __init__(self, file: Path, schema: SchemaRevision, write: bool) -> None:
        """Open the file; a writer locks it, and creates or upgrades it first.

        Raises AlreadyHeld if another process writes it, MissingData if a reader finds none, PreconditionFailed
        if its schema is another version's or its folder cannot be used, Failure if it is damaged.
        """
        self.file = file
        self._writer: Engine | None = None
        with ExitStack() as undo, _translated(file):
            if write:
                self._writer = self._open_writer(schema, undo)
            self.reader = reading_engine(file)
            undo.callback(self.reader.dispose)
            check_revision(self.reader, schema)
            self._resources = undo.pop_all()

    def _open_writer(self, schema: SchemaRevision, undo: ExitStack) -> Engine:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = WriterLock(self.file)
        undo.callback(lock.release)
        writer = writing_engine(self.file)
        undo.callback(writer.dispose)
        migrate(writer, schema)
        return writer

    @property
    def writer(self) -> Engine:
        """Engine over the writing connection. Raises PreconditionFailed if the file was opened for reading."""
        if self._writer is None:
            raise PreconditionFailed(f"{self.file} was opened for reading: open it with write=True")
        return self._writer

    def close(self) -> None:
        """Close all connections, then let another writer in. Calling it again does nothing."""
        self._resources.close()


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    """The one place where what SQLite or the file system says about opening a file becomes ours."""
    try:
        yield
    except DBAPIError as error:
        raise Failure(f"{file} cannot be opened ({error.orig}): check the disk, or restore it from a backup") from error
    except FileNotFoundError as error:
        raise MissingData(f"{error.filename} does not exist: name the data folder by --data") from error
    except OSError as error:
        raise PreconditionFailed(
            f"{file} cannot be opened ({error.strerror}): check the folder's permissions"
        ) from error
