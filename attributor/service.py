"""What the servicers stand on: whether calls are taken, how many at once, and what answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from attributor.disputes import DisputeDesk
from attributor.pipeline import Pipeline
from gmvaluator.errors import Overloaded, Unavailable
from gmvaluator.ledger.answers import BalancePage
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ports import OwnerNames

DEFAULT_PAGE = 100
WATCH_PAGE = 200
MAX_WATCHERS = 64


class RoyaltyReader(Protocol):
    """Reading side of the ledger; blocking but short."""

    def balances(self, after: str = "", limit: int = DEFAULT_PAGE) -> BalancePage: ...

    def postings_after(self, sequence: int, limit: int = WATCH_PAGE) -> list[StoredPosting]: ...


@dataclass(frozen=True, slots=True)
class Counters:
    """What answers calls, once the attributor is warm."""

    pipeline: Pipeline
    ledger: RoyaltyReader
    names: OwnerNames
    disputes: DisputeDesk


class Service:
    """Takes no call before `open` and after `close`, and a bounded number between.

    Calls above `max_in_flight` are refused at once: refusing is cheaper than queueing.
    """

    def __init__(self, max_in_flight: int, max_watchers: int = MAX_WATCHERS) -> None:
        self._max_in_flight = max_in_flight
        self._max_watchers = max_watchers
        self._watchers = 0
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
    def admit(self) -> Iterator[Pipeline]:
        """The pipeline, for one call. Raises Unavailable, or Overloaded if too many calls are in flight."""
        pipeline = self.counters.pipeline
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(f"{self._max_in_flight} images are being valued: send this one again later")
        self.in_flight += 1
        self.idle.clear()
        try:
            yield pipeline
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
