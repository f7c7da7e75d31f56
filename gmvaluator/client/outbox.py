"""Submit and go on: images are kept on the client's disk and delivered later, through restarts of either side.

The outbox on disk: what was submitted stays until it was delivered, whatever happens to process or machine.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from gmvaluator.client.connection import Connection
from gmvaluator.client.requests import DEADLINE_S, Content, Retries, check_size
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import (
    Conflict,
    Failure,
    GmvaluatorError,
    InvalidInput,
    Overloaded,
    PreconditionFailed,
    Unavailable,
)
from gmvaluator.ids import generation_id as checked_id
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


MAX_BYTES = 4 * 1024**3
SENDERS = 4
AGAIN = Retries(attempts=1_000_000_000, longest_pause_s=60.0)

Delivered = Callable[[str, attribution_v1.Attribution], None]
Refused = Callable[[str, GmvaluatorError], None]
Told = TypeVar("Told")
_log = logging.getLogger(__name__)


class Outbox:
    """Delivers what is submitted, each image once; use it as a context manager, or call `close`.

    An image that was submitted is on the disk. It stays until its FINAL has come; after every failure that can pass it
    is sent again, under the same id, so that it is credited once. What can never be delivered (it is no image, or its
    id was used for another one) is kept and told by `refused`. One process holds a folder at a time.
    """

    def __init__(
        self,
        folder: Path,
        server: str | Connection,
        *,
        max_bytes: int = MAX_BYTES,
        senders: int = SENDERS,
        deadline_s: float = DEADLINE_S,
        on_delivered: Delivered = lambda name, final: None,  # noqa: ARG005
        on_refused: Refused = lambda name, error: None,  # noqa: ARG005
    ) -> None:
        """max_bytes: of images that wait. senders: images under way at once. Callbacks come from the senders' threads;
        what they raise is logged.

        Raises AlreadyHeld if another process holds the folder, and what `AttributorClient` raises.
        """
        self._client = AttributorClient(server, deadline_s)
        self._file = OutboxFile(folder, max_bytes)
        self._on_delivered, self._on_refused = on_delivered, on_refused
        self._wake = threading.Condition()
        self._due: list[tuple[float, int]] = [(0.0, number) for number in self._file.waiting()]
        self._open = {number for _, number in self._due}
        self._failures = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._send_all, name=f"outbox-{n}", daemon=True) for n in range(senders)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, image: Content, generation_id: str, model_version: str, generated_at: datetime | None = None
    ) -> None:
        """Keep an image, or its embedding, to be delivered; returns once it is on the disk, and waits for nobody.

        generated_at: now, if absent. Raises InvalidInput, Overloaded if `max_bytes` wait, Conflict if this id waits
        with another image, Failure if the disk fails.
        """
        moment = generated_at or datetime.now(UTC)
        number = self._file.add(image, checked_id(generation_id), model_version, moment)
        with self._wake:
            if number not in self._open:
                self._open.add(number)
                heapq.heappush(self._due, (0.0, number))
                self._wake.notify_all()  # one alone might be who waits in `flush`

    async def submit_async(
        self, image: Content, generation_id: str, model_version: str, generated_at: datetime | None = None
    ) -> None:
        """`submit` from an event loop."""
        await asyncio.to_thread(self.submit, image, generation_id, model_version, generated_at)

    @property
    def waiting(self) -> int:
        """Images that are not delivered yet, without those refused."""
        return len(self._open)

    def refused(self) -> list[Submitted]:
        """Images that cannot be delivered as they are; `discard` them once you have looked."""
        return self._file.refused()

    def discard(self, submitted: Submitted) -> None:
        """Forget an image that was refused."""
        self._file.remove(submitted.number)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is delivered or refused; False if something still waits after `timeout_s`."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._open, timeout_s)

    def close(self) -> None:
        """Stop once the calls under way have ended; what waits is delivered by the next `Outbox` on the folder."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._client.close()
        for thread in self._threads:
            thread.join()
        self._file.close()

    def _send_all(self) -> None:
        while (number := self._next()) is not None:
            try:
                self._deliver(number)
            except Exception as error:  # noqa: BLE001 - whatever it is, a thread that ended would send nothing more
                if self._closing and isinstance(error, ValueError):
                    return  # The channel was closed under us.
                if not isinstance(error, GmvaluatorError):
                    _log.exception("image %d could not be sent: it is tried again", number)
                self._put_back(number, error)

    def _deliver(self, number: int) -> None:
        submitted = self._file.get(number)
        if submitted is None:
            self._settle(number)
            return
        try:
            self._send(submitted)
        except (InvalidInput, Conflict) as error:
            self._refuse(submitted, error)

    def _next(self) -> int | None:
        """The next image whose time has come; None if we are closing."""
        with self._wake:
            while not self._closing:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._due)[1]
                self._wake.wait(wait_s)
        return None

    def _send(self, submitted: Submitted) -> None:
        final = None
        for stage in self._client.attribute(
            submitted.content, submitted.generation_id, submitted.model_version, submitted.generated_at
        ):
            final = stage
        if final is None or final.stage != attribution_v1.STAGE_FINAL:
            raise Failure(f"the attributor ended the answer for {submitted.generation_id} without FINAL")
        self._file.remove(submitted.number)
        self._failures = 0
        self._settle(submitted.number)
        self._tell(self._on_delivered, submitted.generation_id, final)

    def _refuse(self, submitted: Submitted, error: GmvaluatorError) -> None:
        self._file.refuse(submitted.number, str(error))
        self._settle(submitted.number)
        self._tell(self._on_refused, submitted.generation_id, error)

    def _tell(self, callback: Callable[[str, Told], None], generation_id: str, told: Told) -> None:
        try:
            callback(generation_id, told)
        except Exception:  # noqa: BLE001 - the caller's fault, by which no image waits longer
            _log.exception("what was to be told of %s broke", generation_id)

    def _put_back(self, number: int, error: Exception) -> None:
        with self._wake:
            self._failures += 1
            heapq.heappush(self._due, (time.monotonic() + self._pause_s(error), number))

    def _pause_s(self, error: Exception) -> float:
        """An operator may have to act, or the server to come back: everything but a refusal is tried for ever."""
        if isinstance(error, PreconditionFailed):
            return AGAIN.longest_pause_s
        passing = error if isinstance(error, Overloaded | Unavailable) else Unavailable("")
        return AGAIN.pause_s(passing, min(self._failures, 20), float("inf")) or AGAIN.first_pause_s

    def _settle(self, number: int) -> None:
        with self._wake:
            self._open.discard(number)
            self._wake.notify_all()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
