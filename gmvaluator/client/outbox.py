"""Submit and go on: images are kept on the client's disk and delivered later, through restarts of either side."""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from gmvaluator.client.connection import Connection
from gmvaluator.client.outbox_file import OutboxFile, Submitted
from gmvaluator.client.requests import DEADLINE_S, Content, Retries
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
from gmvaluator.v1 import attribution_pb2 as attribution_v1

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
