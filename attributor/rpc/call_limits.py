"""What the servicers stand on: whether calls are taken, how many at once, and what answers them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from attributor.core.disputes import DisputeDesk
from attributor.core.pipeline import Pipeline
from attributor.rpc.admission import Admission
from gmvaluator.errors import Overloaded, Unavailable
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.results import BalancePage
from gmvaluator.ports import OwnerNames

DEFAULT_PAGE = 100
WATCH_PAGE = 200
MAX_WATCHERS = 64
MAX_STREAMS = 128
"""Streams of images at once, half of them one client's at most: each may hold an image in memory that waits."""

MAX_QUESTIONS = 64
"""Calls without an image at once."""


class RoyaltyReader(Protocol):
    """Reading side of the ledger; blocking but short."""

    def balances(self, after: str = "", limit: int = DEFAULT_PAGE) -> BalancePage: ...

    def balance(self, account: str) -> BalancePage: ...

    def postings_after(self, sequence: int, limit: int = WATCH_PAGE) -> list[StoredPosting]: ...


@dataclass(frozen=True, slots=True)
class Counters:
    """What answers calls, once the attributor is warm."""

    pipeline: Pipeline
    ledger: RoyaltyReader
    names: OwnerNames
    disputes: DisputeDesk


class CallGate:
    """Takes no call before `open` and after `close`, and a bounded number between.

    How much at once is the `admission`'s to say; questions that carry no image only have to be few enough.
    """

    def __init__(
        self,
        admission: Admission,
        max_watchers: int = MAX_WATCHERS,
        max_questions: int = MAX_QUESTIONS,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._admission = admission
        self._max_watchers = max_watchers
        self._max_questions = max_questions
        self._max_streams = max_streams
        self._watchers = 0
        self._questions = 0
        self._streams: Counter[str] = Counter()
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._counters: Counters | None = None
        self._why_not = "the attributor is starting: wait until its health says SERVING"

    def open(self, counters: Counters) -> None:
        self._counters = counters

    def close(self) -> None:
        """Refuse new calls; those in flight go on."""
        self._counters = None
        self._why_not = "the attributor is stopping: send the call again, with the same id, to another or later"

    @property
    def counters(self) -> Counters:
        """What answers calls. Raises Unavailable."""
        if self._counters is None:
            raise Unavailable(self._why_not)
        return self._counters

    @contextmanager
    def admit(self, client: str, pixels: int) -> Iterator[Pipeline]:
        """The pipeline, for one image of a client's. Raises Unavailable, or Overloaded if there is no place for it."""
        pipeline = self.counters.pipeline
        with self._admission.admit(client, pixels), self._in_flight():
            yield pipeline

    @asynccontextmanager
    async def wait(self, client: str, pixels: int) -> AsyncIterator[Pipeline]:
        """As `admit`, but waits for a place. Raises Unavailable."""
        _ = self.counters
        async with self._admission.wait(client, pixels):
            pipeline = self.counters.pipeline
            with self._in_flight():
                yield pipeline

    @contextmanager
    def stream(self, client: str) -> Iterator[None]:
        """A place for one stream of a client's images, which wait for theirs one by one.

        Raises Unavailable, or Overloaded if there are too many streams, or too many of this client's.
        """
        _ = self.counters
        if self._streams.total() >= self._max_streams or 2 * self._streams[client] >= self._max_streams:
            raise Overloaded(
                f"{self._streams.total()} streams are open, {self._streams[client]} of them yours: send more images on "
                "each, or open this one later"
            )
        self._streams[client] += 1
        try:
            yield
        finally:
            self._streams[client] -= 1
            if not self._streams[client]:
                del self._streams[client]

    @contextmanager
    def ask(self) -> Iterator[Counters]:
        """What answers a question without an image. Raises Unavailable, or Overloaded if too many are asked."""
        counters = self.counters
        if self._questions >= self._max_questions:
            raise Overloaded(f"{self._max_questions} questions are being answered: ask again later")
        self._questions += 1
        try:
            with self._in_flight():
                yield counters
        finally:
            self._questions -= 1

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        self.in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()

    @contextmanager
    def watch(self) -> Iterator[RoyaltyReader]:
        """The ledger, for one watcher. Raises Unavailable, or Overloaded if there are too many watchers."""
        ledger = self.counters.ledger
        if self._watchers >= self._max_watchers:
            raise Overloaded(f"{self._max_watchers} watchers are connected: watch from one place and pass it on")
        self._watchers += 1
        try:
            yield ledger
        finally:
            self._watchers -= 1
