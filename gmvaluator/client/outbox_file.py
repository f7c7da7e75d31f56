"""The outbox on disk: what was submitted stays until it was delivered, whatever happens to process or machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.client.requests import Content, check_size
from gmvaluator.errors import Conflict, Failure, Overloaded
from gmvaluator.storage.locks import WriterLock
from gmvaluator.v1 import attribution_pb2 as attribution_v1

FILE_NAME = "outbox.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    generation_id TEXT NOT NULL UNIQUE,
    model_version TEXT NOT NULL,
    generated_at TEXT NOT NULL,
    embedded INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    content BLOB NOT NULL,
    refusal TEXT
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Submitted:
    """One image that waits. number: its place in the order of submitting. refusal: why it will never be delivered."""

    number: int
    generation_id: str
    model_version: str
    generated_at: datetime
    content: Content
    refusal: str | None = None


class OutboxFile:
    """A folder's outbox; one process has it open. Thread-safe. Every change is on the disk when it returns."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Raises AlreadyHeld if another process has it open, Failure if the file cannot be used."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file_lock = WriterLock(folder / FILE_NAME)
        try:
            with _disk_errors(folder):
                self._file = sqlite3.connect(folder / FILE_NAME, check_same_thread=False, isolation_level=None)
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=ON", "auto_vacuum=INCREMENTAL"):
                    self._file.execute(f"PRAGMA {pragma}")
                self._file.execute(_SCHEMA)
        except BaseException:
            self._file_lock.release()
            raise
        self._folder = folder
        self._bytes = self._sum()

    def add(self, content: Content, generation_id: str, model_version: str, generated_at: datetime) -> int:
        """Keep an image; its number. The same image again changes nothing.

        Raises ImageTooLarge, Overloaded if the outbox is full, Conflict if the id waits with another image, Failure.
        """
        embedded = not isinstance(content, bytes)
        data = content if isinstance(content, bytes) else content.SerializeToString()
        check_size(data)
        with self._lock, _disk_errors(self._folder):
            found = self._file.execute(
                "SELECT number, content, model_version FROM images WHERE generation_id = ?", (generation_id,)
            ).fetchone()
            if found is not None:
                if found[1:] != (data, model_version):
                    raise Conflict(f"generation {generation_id} waits in the outbox with another image: use a new id")
                return int(found[0])
            if self._bytes + len(data) > self._max_bytes:
                raise Overloaded(
                    f"{self._bytes:,} bytes wait in the outbox {self._folder}, of {self._max_bytes:,} allowed: see "
                    "why the attributor takes none"
                )
            self._bytes += len(data)
            row = (generation_id, model_version, generated_at.astimezone(UTC).isoformat(), embedded, len(data), data)
            insert = "INSERT INTO images (generation_id, model_version, generated_at, embedded, size_bytes, content)"
            return self._file.execute(f"{insert} VALUES (?, ?, ?, ?, ?, ?)", row).lastrowid or 0

    def waiting(self) -> list[int]:
        """Numbers of what is to be delivered, in order."""
        with self._lock, _disk_errors(self._folder):
            rows = self._file.execute("SELECT number FROM images WHERE refusal IS NULL ORDER BY number").fetchall()
        return [number for (number,) in rows]

    def get(self, number: int) -> Submitted | None:
        """One image; None if it was delivered."""
        rows = self._select("number = ?", number)
        return rows[0] if rows else None

    def refused(self) -> list[Submitted]:
        """What will never be delivered as it is."""
        return self._select("refusal IS NOT NULL")

    def remove(self, number: int) -> None:
        """It was delivered, or is given up."""
        with self._lock, _disk_errors(self._folder):
            self._file.execute("DELETE FROM images WHERE number = ?", (number,))
            self._file.execute("PRAGMA incremental_vacuum(64)")
            self._bytes = self._sum()

    def refuse(self, number: int, why: str) -> None:
        """It will not be delivered; it is kept, so that somebody can look."""
        with self._lock, _disk_errors(self._folder):
            self._file.execute("UPDATE images SET refusal = ? WHERE number = ?", (why, number))

    def close(self) -> None:
        """Let go of the file; what waits stays."""
        with self._lock:
            self._file.close()
        self._file_lock.release()

    def _sum(self) -> int:
        (total,) = self._file.execute("SELECT coalesce(sum(size_bytes), 0) FROM images").fetchone()
        return int(total)

    def _select(self, condition: str, *values: object) -> list[Submitted]:
        columns = "number, generation_id, model_version, generated_at, embedded, content, refusal"
        query = f"SELECT {columns} FROM images WHERE {condition} ORDER BY number"  # noqa: S608 - our own words
        with self._lock, _disk_errors(self._folder):
            rows = self._file.execute(query, values).fetchall()
        return [_submitted(*row) for row in rows]


def _submitted(
    number: int, generation: str, version: str, generated_at: str, embedded: int, data: bytes, refusal: str | None
) -> Submitted:
    content: Content = attribution_v1.Embedding.FromString(data) if embedded else data
    return Submitted(number, generation, version, datetime.fromisoformat(generated_at), content, refusal)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Failure(f"the outbox in {folder} cannot be used ({error}): check the disk") from error
