"""A database as a program holds it: read-only connections and, in a writer, the writing one.

Where a program's catalogue and ledger are: files in the data folder, or schemas of one PostgreSQL database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from gmvaluator.errors import Failure, MissingData, PreconditionFailed, Unavailable
from gmvaluator.storage import postgresql, sqlite
from gmvaluator.storage.locks import WriterLock
from gmvaluator.storage.schema import SchemaRevision, check_revision, migrate


@dataclass(frozen=True, slots=True)
class DataLocation:
    """The data folder, and the database that replaces its SQLite files.

    database_url: postgresql://USER:PASSWORD@HOST/NAME; empty for `catalogue.sqlite` and `ledger.sqlite` in the
    folder. Keys, policies and thumbnails are in the folder either way.
    """

    folder: Path
    database_url: str = field(default="", repr=False)


def as_location(place: Path | DataLocation) -> DataLocation:
    """A bare folder means its SQLite files."""
    return place if isinstance(place, DataLocation) else DataLocation(place)


class Database:
    """Engines over one SQLite file or one schema of PostgreSQL, at its revision. `reader` serves any thread.

    name: where it is, for messages; never a password.
    """

    def __init__(self, location: Path | str, schema: SchemaRevision, write: bool) -> None:
        """Open a file (a Path) or the schema of that name at a PostgreSQL URL; a writer makes or upgrades it first.

        A file has one writing process, which locks it; PostgreSQL may have many. Raises AlreadyHeld if another
        process writes the file, MissingData if a reader finds nothing, PreconditionFailed if the schema is another
        version's or the folder cannot be used, InvalidInput if the URL is none, Unavailable if the server cannot be
        reached, Failure if the database is damaged.
        """
        self.location = location
        self._writer: Engine | None = None
        in_file = isinstance(location, Path)
        self.name = str(location) if in_file else f"schema {schema.name} of PostgreSQL"
        with ExitStack() as undo, _file_errors(self.name) if in_file else _server_errors(self.name):
            if write:
                self._writer = self._open_writer(schema, undo)
            self.reader = _reading_engine(location, schema)
            undo.callback(self.reader.dispose)
            check_revision(self.reader, schema)
            self._resources = undo.pop_all()

    def _open_writer(self, schema: SchemaRevision, undo: ExitStack) -> Engine:
        if isinstance(self.location, Path):
            self.location.parent.mkdir(parents=True, exist_ok=True)
            undo.callback(WriterLock(self.location).release)
            writer = sqlite.writing_engine(self.location)
        else:
            writer = postgresql.writing_engine(self.location, schema.name)
        undo.callback(writer.dispose)
        migrate(writer, schema)
        return writer

    @property
    def writer(self) -> Engine:
        """Engine over the writing connection. Raises PreconditionFailed if it was opened for reading."""
        if self._writer is None:
            raise PreconditionFailed(f"{self.name} was opened for reading: open it with write=True")
        return self._writer

    def close(self) -> None:
        """Close all connections, then let another writer in. Calling it again does nothing."""
        self._resources.close()


def location_in(place: DataLocation, file_name: str) -> Path | str:
    """What `Database` opens for a part of a place: its file in the folder, or the place's URL."""
    return place.database_url or place.folder / file_name


def _reading_engine(location: Path | str, schema: SchemaRevision) -> Engine:
    if isinstance(location, Path):
        return sqlite.reading_engine(location)
    return postgresql.reading_engine(location, schema.name)


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    """The one place where what SQLite or the file system says about opening a file becomes ours."""
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
def _server_errors(name: str) -> Iterator[None]:
    """The same for what PostgreSQL says."""
    try:
        yield
    except DBAPIError as error:
        raise Unavailable(
            f"{name} cannot be opened ({error.orig}): check DATABASE_URL, and that its user may create schemas"
        ) from error
