"""A durable outbox of images: `submit` returns once an image is on the client's disk, threads deliver it later.

`OutboxFile` is the queue on disk: an image stays in it until it is delivered, through crashes of the process and the
machine. `Outbox` sends what is in it, through restarts of either side.
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
from gmvaluator.client.requests import DEADLINE_S, Content, Retries, check_size, with_zone
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
from gmvaluator.files import private_file, private_folder
from gmvaluator.ids import generation_id as checked_id
from gmvaluator.storage.locks import WriterLock
from gmvaluator.v1 import attribution_pb2 as attribution_v1

MAX_BYTES = 4 * 1024**3
"""Default limit of the images that wait, in bytes."""

SENDERS = 4
"""Default number of images that are sent at the same time."""

RETRIES = Retries(attempts=1_000_000_000, longest_pause_s=60.0)
"""Pauses between attempts to send: from 0.2 s to a minute, without end."""

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
    """One image in the outbox. number: its place in the order of submission. refusal: why it cannot be delivered."""

    number: int
    generation_id: str
    model_version: str
    generated_at: datetime
    content: Content
    refusal: str | None = None


class OutboxFile:
    """The outbox of a folder, which one process has open. Thread-safe. A change is on disk when its method returns."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open or create the outbox.

        Raises AlreadyHeld if another process has it open, Failure if the file cannot be used.
        """
        private_folder(folder)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file_lock = WriterLock(folder / FILE_NAME)
        try:
            with _disk_errors(folder):
                private_file(folder / FILE_NAME)
                self._file = sqlite3.connect(folder / FILE_NAME, check_same_thread=False, isolation_level=None)
                # FULL and fullfsync: `submit` promises that the image survives a loss of power. Incremental vacuum:
                # the file of an outbox that was full once gives its space back.
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=ON", "auto_vacuum=INCREMENTAL"):
                    self._file.execute(f"PRAGMA {pragma}")
                self._file.execute(_SCHEMA)
        except BaseException:
            self._file_lock.release()
            raise
        self._folder = folder
        self._bytes = self._total_bytes()

    def add(self, content: Content, generation_id: str, model_version: str, generated_at: datetime) -> int:
        """Store an image and return its number; for an image that is already stored, its first number.

        Raises ImageTooLarge, Overloaded if the outbox is full, Conflict if the id waits with another image, Failure.
        """
        embedded = not isinstance(content, bytes)
        data = content if isinstance(content, bytes) else content.SerializeToString()
        check_size(data)
        with self._lock, _disk_errors(self._folder):
            stored = self._file.execute(
                "SELECT number, content, model_version FROM images WHERE generation_id = ?", (generation_id,)
            ).fetchone()
            if stored is not None:
                if stored[1:] != (data, model_version):
                    raise Conflict(f"generation {generation_id} waits in the outbox with another image: use a new id")
                return int(stored[0])
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
        """Return the numbers of the images to be delivered, in the order of submission."""
        with self._lock, _disk_errors(self._folder):
            rows = self._file.execute("SELECT number FROM images WHERE refusal IS NULL ORDER BY number").fetchall()
        return [number for (number,) in rows]

    def get(self, number: int) -> Submitted | None:
        """Return an image; None if it was delivered or discarded."""
        rows = self._select("number = ?", number)
        return rows[0] if rows else None

    def refused(self) -> list[Submitted]:
        """Return the images that were refused."""
        return self._select("refusal IS NOT NULL")

    def remove(self, number: int) -> None:
        """Delete an image that was delivered or is discarded."""
        with self._lock, _disk_errors(self._folder):
            self._file.execute("DELETE FROM images WHERE number = ?", (number,))
            self._file.execute("PRAGMA incremental_vacuum(64)")
            self._bytes = self._total_bytes()

    def refuse(self, number: int, reason: str) -> None:
        """Mark an image as undeliverable; it stays stored for inspection."""
        with self._lock, _disk_errors(self._folder):
            self._file.execute("UPDATE images SET refusal = ? WHERE number = ?", (reason, number))

    def close(self) -> None:
        """Close the file; images that wait stay in it."""
        with self._lock:
            self._file.close()
        self._file_lock.release()

    def _total_bytes(self) -> int:
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


Delivered = Callable[[str, attribution_v1.Attribution], None]
"""Callback for a delivered image: its generation id and FINAL."""

Refused = Callable[[str, GmvaluatorError], None]
"""Callback for a refused image: its generation id and the attributor's error."""

Outcome = TypeVar("Outcome")
_log = logging.getLogger(__name__)


class Outbox:
    """A sender of submitted images, each credited once; use it as a context manager, or call `close`.

    A submitted image stays on disk until its FINAL arrives. After a failure that may pass it is sent again, under the
    same id, so that it is credited once. An image that can never be delivered (it is no image, or its id was used for
    another one) is kept, and returned by `refused`. One process holds a folder at a time.
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
        """Open the folder and start to deliver what it holds.

        max_bytes: bound of the images that wait. senders: images sent at the same time. Callbacks are called in the
        senders' threads; an exception that they raise is logged.

        Raises AlreadyHeld if another process holds the folder, and what `AttributorClient` raises.
        """
        self._client = AttributorClient(server, deadline_s)
        self._file = OutboxFile(folder, max_bytes)
        self._on_delivered, self._on_refused = on_delivered, on_refused
        self._changed = threading.Condition()
        # A heap of (monotonic time, number): when each image is sent next.
        self._due: list[tuple[float, int]] = [(0.0, number) for number in self._file.waiting()]
        self._undelivered = {number for _, number in self._due}
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
        """Store an image, or its embedding, for delivery; return once it is on disk, without waiting for the network.

        generated_at: a time with its zone; now, if absent. Raises InvalidInput, Overloaded if `max_bytes` wait,
        Conflict if this id waits with another image, Failure if the disk fails.
        """
        moment = datetime.now(UTC) if generated_at is None else with_zone(generated_at)
        number = self._file.add(image, checked_id(generation_id), model_version, moment)
        with self._changed:
            if number not in self._undelivered:
                self._undelivered.add(number)
                heapq.heappush(self._due, (0.0, number))
                self._changed.notify_all()  # `notify` might wake a thread in `flush` instead of a sender.

    async def submit_async(
        self, image: Content, generation_id: str, model_version: str, generated_at: datetime | None = None
    ) -> None:
        """Submit an image from an event loop, without blocking it; see `submit`."""
        await asyncio.to_thread(self.submit, image, generation_id, model_version, generated_at)

    @property
    def waiting(self) -> int:
        """Number of images that are neither delivered nor refused."""
        return len(self._undelivered)

    def refused(self) -> list[Submitted]:
        """Return the images that cannot be delivered; `discard` each after inspection."""
        return self._file.refused()

    def discard(self, submitted: Submitted) -> None:
        """Delete an image that was refused."""
        self._file.remove(submitted.number)

    def flush(self, timeout_s: float) -> bool:
        """Wait until every image is delivered or refused, and return True.

        Return False if an image still waits after `timeout_s`, or when the outbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._undelivered, timeout_s)
            return not self._undelivered

    def close(self) -> None:
        """End the calls in progress and stop; what waits is delivered by the next `Outbox` on the folder."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._client.close()
        for thread in self._threads:
            thread.join()
        self._file.close()

    def _send_all(self) -> None:
        while (number := self._next()) is not None:
            try:
                self._deliver(number)
            except Exception as error:  # noqa: BLE001 - a thread that ended would send nothing more
                if self._closing and isinstance(error, ValueError):
                    return  # gRPC raises it because `close` closed the channel.
                if not isinstance(error, GmvaluatorError):
                    _log.exception("image %d could not be sent: it is tried again", number)
                self._reschedule(number, error)

    def _deliver(self, number: int) -> None:
        submitted = self._file.get(number)
        if submitted is None:
            # Sent before, but removing it from the queue failed the first time.
            self._settle(number)
            return
        try:
            self._send(submitted)
        except (InvalidInput, Conflict) as error:
            self._refuse(submitted, error)

    def _next(self) -> int | None:
        """Wait for the next image that is due, and return its number; None when the outbox is closed."""
        with self._changed:
            while not self._closing:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._due)[1]
                self._changed.wait(wait_s)
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
        self._notify(self._on_delivered, submitted.generation_id, final)

    def _refuse(self, submitted: Submitted, error: GmvaluatorError) -> None:
        self._file.refuse(submitted.number, str(error))
        self._settle(submitted.number)
        self._notify(self._on_refused, submitted.generation_id, error)

    def _notify(self, callback: Callable[[str, Outcome], None], generation_id: str, outcome: Outcome) -> None:
        try:
            callback(generation_id, outcome)
        except Exception:  # noqa: BLE001 - a fault of the caller's must not delay other images
            _log.exception("the callback for generation %s failed", generation_id)

    def _reschedule(self, number: int, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            heapq.heappush(self._due, (time.monotonic() + self._pause_s(error), number))

    def _pause_s(self, error: Exception) -> float:
        """Return the pause after an error; every error but a refusal is retried without end."""
        # An operator has to act (register a generator, renew a token): a short pause gains nothing.
        if isinstance(error, PreconditionFailed):
            return RETRIES.longest_pause_s
        transient = error if isinstance(error, Overloaded | Unavailable) else Unavailable("")
        return RETRIES.pause_s(transient, min(self._failures, 20), float("inf")) or RETRIES.first_pause_s

    def _settle(self, number: int) -> None:
        with self._changed:
            self._undelivered.discard(number)
            self._changed.notify_all()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
