"""Load on the group-commit writer that the attributor uses: callers that wait, and callers that come when they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gmvaluator.errors import GmvaluatorError
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.records import NewPosting
from gmvaluator.ledger.results import Outcome
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.ledger.writer import AnyPosting
from gmvaluator.storage.database import Place


@dataclass(slots=True)
class Recorded:
    """A ledger that notes how postings were grouped into commits."""

    ledger: Ledger
    batches: list[int] = field(default_factory=list)

    def post(self, batch: Sequence[AnyPosting]) -> Sequence[Outcome]:
        self.batches.append(len(batch))
        return self.ledger.post(batch)

    def close(self) -> None:
        self.ledger.close()


@dataclass(frozen=True, slots=True)
class Load:
    """What a load measured. latencies_ms: from when a posting was due until its answer, which is after the commit."""

    seconds: float
    latencies_ms: list[float]
    batches: list[int]


def closed_loop(place: Place, postings: Sequence[NewPosting], writers: int) -> Load:
    """`writers` callers, each of which sends its next posting when the one before is durable."""
    return asyncio.run(_measured(place, lambda writer: _closed_loop(writer, iter(postings), writers)))


def open_loop(place: Place, postings: Sequence[NewPosting], per_second: float) -> Load:
    """Postings that come at a fixed rate, whether or not the ones before are answered."""
    return asyncio.run(_measured(place, lambda writer: _open(writer, postings, per_second)))


async def _measured(place: Place, load: Callable[[LedgerWriter], Awaitable[list[float]]]) -> Load:
    opened: list[Recorded] = []

    def recorded() -> Recorded:
        opened.append(Recorded(open_ledger(place, write=True)))
        return opened[0]

    failures: list[GmvaluatorError] = []
    writer = LedgerWriter(recorded, failures.append)
    writer.start()
    try:
        began = time.perf_counter()
        latencies_ms = await load(writer)
        seconds = time.perf_counter() - began
    finally:
        writer.close()
    return Load(seconds, latencies_ms, opened[0].batches)


async def _closed_loop(writer: LedgerWriter, waiting: Iterator[NewPosting], writers: int) -> list[float]:
    latencies_ms: list[float] = []

    async def write() -> None:
        for posting in waiting:
            began = time.perf_counter()
            await writer.post(posting)
            latencies_ms.append(1_000 * (time.perf_counter() - began))

    await asyncio.gather(*(write() for _ in range(writers)))
    return latencies_ms


async def _open(writer: LedgerWriter, postings: Sequence[NewPosting], per_second: float) -> list[float]:
    began = time.perf_counter()

    async def write(posting: NewPosting, due: float) -> float:
        await writer.post(posting)
        return 1_000 * (time.perf_counter() - due)

    tasks: list[asyncio.Task[float]] = []
    for number, posting in enumerate(postings):
        due = began + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(write(posting, due)))
    return list(await asyncio.gather(*tasks))
