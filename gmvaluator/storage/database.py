"""Databases of the catalogue and the ledger: SQLite files in the data folder, or schemas of one PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from gmvaluator.errors import Failure, MissingData, PreconditionFailed, Unavailable
from gmvaluator.files import private_folder
from gmvaluator.storage import postgresql, sqlite
from gmvaluator.storage.locks import WriterLock
from gmvaluator.storage.schema import SchemaRevision, check_revision, migrate


@dataclass(frozen=True, slots=True)
class DataLocation:
    """A data folder, and the database used instead of its SQLite files.

    database_url: postgresql://USER:PASSWORD@HOST/NAME; empty for `catalogue.sqlite` and `ledger.sqlite` in the
    folder. Keys, policies and thumbnails are in the folder either way.
    """

    folder: Path
    database_url: str = field(default="", repr=False)


def as_location(place: Path | DataLocation) -> DataLocation:
    """Return the location of a folder, with SQLite files, or the location itself."""
    return place if isinstance(place, DataLocation) else DataLocation(place)


class Database:
    """One SQLite file or one schema of PostgreSQL, at its revision.

    It has a `reader` engine, which is thread-safe, and a `writer` engine if it was opened to write. name: file or
    schema, for messages; never contains a password.
    """

    def __init__(self, location: Path | str, schema: SchemaRevision, write: bool) -> None:
        """Open a file (a Path), or the schema of that name at a PostgreSQL URL; to write, create or upgrade it first.

        A file has one writing process, which locks it; PostgreSQL may have many. Raises AlreadyHeld if another process
        writes the file, MissingData if nothing is there to read, PreconditionFailed if the schema is of another version
        or the folder cannot be used, InvalidInput if the URL is invalid, Unavailable if the server cannot be reached,
        Failure if the database is damaged.
        """
        self.location = location
        self._writer: Engine | None = None
        self._files: sqlite.OpenFiles | None = None
        in_file = isinstance(location, Path)
        self.name = str(location) if in_file else f"schema {schema.name} of PostgreSQL"
        with ExitStack() as undo, _file_errors(self.name) if in_file else server_errors(self.name):
            if write:
                self._writer = self._open_writer(schema, undo)
            self.reader = _reading_engine(location, schema)
            undo.callback(self.reader.dispose)
            check_revision(self.reader, schema)
            self._resources = undo.pop_all()

    def _open_writer(self, schema: SchemaRevision, undo: ExitStack) -> Engine:
        if isinstance(self.location, Path):
            private_folder(self.location.parent)
            undo.callback(WriterLock(self.location).release)
            writer = sqlite.writing_engine(self.location)
        else:
            writer = postgresql.writing_engine(self.location, schema.name)
        undo.callback(writer.dispose)
        migrate(writer, schema)
        if isinstance(self.location, Path):
            self._files = sqlite.OpenFiles(self.location)
            event.listen(writer, "commit", lambda _: self.check_in_place())
        return writer

    def check_in_place(self) -> None:
        """Raise Unavailable if the file that is written was removed, renamed or replaced since it was opened.

        Checked before every commit. What is acknowledged has to be checked after its commit as well.
        """
        if self._files is not None:
            self._files.check()

    @property
    def writer(self) -> Engine:
        """The engine over the writing connection. Raises PreconditionFailed if the database was opened for reading."""
        if self._writer is None:
            raise PreconditionFailed(f"{self.name} was opened for reading: open it with write=True")
        return self._writer

    def close(self) -> None:
        """Close all connections, then release the writer lock. Calling it again does nothing."""
        self._resources.close()


def location_in(place: DataLocation, file_name: str) -> Path | str:
    """Return what `Database` opens: the file in the data folder, or the URL of PostgreSQL."""
    return place.database_url or place.folder / file_name


def _reading_engine(location: Path | str, schema: SchemaRevision) -> Engine:
    if isinstance(location, Path):
        return sqlite.reading_engine(location)
    return postgresql.reading_engine(location, schema.name)


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    """Translate errors of SQLite and of the file system about opening a file; no other place does."""
    try:
        yield
    except DBAPIError as error:
        raise Failure(f"{name} cannot be opened ({error.orig}): check the disk, or restore it from a backup") from error
    except FileNotFoundError as error:
        raise MissingData(f"{error.filename} does not exist: name the data folder by --data") from error
    except OSError as error:
        raise PreconditionFailed(
            f"{name} cannot be opened ({error.strerror}): check the folder's permissions"
        ) from error


@contextmanager
def server_errors(name: str) -> Iterator[None]:
    """Translate errors of PostgreSQL about opening a schema."""
    try:
        yield
    except DBAPIError as error:
        raise Unavailable(
            f"{name} cannot be opened ({error.orig}): check DATABASE_URL, and that its user may create schemas"
        ) from error
