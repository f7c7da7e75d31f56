"""`gmvaluator bench ledger`: how fast postings become durable, beside a bare sqlite3 loop and this disk's fsync.

Load on the group-commit writer that the attributor uses: callers that wait, and callers that come when they come.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.ledger_baseline import (
    CONTRIBUTORS,
    OWNERS,
    fsync_ms,
    postings,
    rows_of,
    wide_postings,
    write_bare,
)
from evaluation.bench.ledger_kills import run_kills_in_process
from evaluation.bench.power_loss import run_power_loss
from gmvaluator.errors import Failure, GmvaluatorError
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.reader import MAX_PAGE, LedgerReader
from gmvaluator.ledger.records import NewPosting
from gmvaluator.ledger.results import Outcome
from gmvaluator.ledger.store import Ledger, ledger_file, open_ledger
from gmvaluator.ledger.writer import AnyPosting
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer


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


def closed_loop(place: DataLocation, postings: Sequence[NewPosting], writers: int) -> Load:
    """`writers` callers, each of which sends its next posting when the one before is durable."""
    return asyncio.run(_measured(place, lambda writer: _closed_loop(writer, iter(postings), writers)))


def open_loop(place: DataLocation, postings: Sequence[NewPosting], per_second: float) -> Load:
    """Postings that come at a fixed rate, whether or not the ones before are answered."""
    return asyncio.run(_measured(place, lambda writer: _open(writer, postings, per_second)))


async def _measured(place: DataLocation, load: Callable[[LedgerWriter], Awaitable[list[float]]]) -> Load:
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


WRITERS = 32
PER_SECOND = 300.0
ROUNDS = 3
WIDE_ENTRIES = 10_000
WIDE_OWNERS = 10_000
WIDE_BATCH = 10
READS = 15


def bench_ledger(images: int, total_entries: int, kills: int, power_losses: int, parent: Path | None) -> dict[str, Any]:
    """Figures of one run, on the disk of `parent` (default: the temporary folder's).

    Postings come encoded, as `build_posting` leaves them in the attributor; encode_ms says what that takes.
    durable_images_per_s: closed loop through the group-commit writer, the median of three rounds, each followed by
    the bare loop on what it wrote; ratio_to_bare_sqlite is of the sums. commit_p99_ms: at 300 images/s, from when an
    image was due until its commit was answered.
    """
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", dir=parent) as name:
        folder = Path(name)
        began = time.process_time()
        batch = list(postings(images))
        encode_ms = 1_000 * (time.process_time() - began) / images
        return {
            **_closed(folder, batch),
            **_paced(folder, batch),
            **_fsync(folder),
            "encode_ms": encode_ms,
            **_postgresql(folder, parent, batch),
            **_verified(folder / "ledger-0", batch, total_entries // 10),
            **_owner_totals(folder / "wide", total_entries),
            **_crashes(kills, power_losses),
            "images": images,
            "contributors": CONTRIBUTORS,
            "paid_owners": OWNERS,
            "writers": WRITERS,
        }


def _closed(folder: Path, batch: Sequence[NewPosting]) -> dict[str, Any]:
    ours_s: list[float] = []
    bare_s: list[float] = []
    latencies_ms: list[float] = []
    commits = 0
    for number in range(ROUNDS):
        gc.collect()
        load = closed_loop(DataLocation(folder / f"ledger-{number}"), batch, WRITERS)
        rows = rows_of(folder / f"ledger-{number}", load.batches)
        gc.collect()
        bare_s.append(write_bare(folder / f"bare-{number}", rows))
        ours_s.append(load.seconds)
        latencies_ms += load.latencies_ms
        commits += len(load.batches)
    return {
        "durable_images_per_s": len(batch) / statistics.median(ours_s),
        "bare_images_per_s": len(batch) / statistics.median(bare_s),
        "ratio_to_bare_sqlite": sum(bare_s) / sum(ours_s),
        "images_per_commit": ROUNDS * len(batch) / commits,
        "closed_p99_ms": float(np.percentile(latencies_ms, 99)),
    }


def _paced(folder: Path, batch: Sequence[NewPosting]) -> dict[str, Any]:
    gc.collect()
    load = open_loop(DataLocation(folder / "open"), batch, PER_SECOND)
    return {
        "commit_p50_ms": float(np.percentile(load.latencies_ms, 50)),
        "commit_p99_ms": float(np.percentile(load.latencies_ms, 99)),
        "open_loop_per_s": PER_SECOND,
    }


def _fsync(folder: Path) -> dict[str, Any]:
    taken_ms = fsync_ms(folder)
    return {"fsync_p50_ms": statistics.median(taken_ms), "fsync_p99_ms": float(np.percentile(taken_ms, 99))}


def _postgresql(folder: Path, parent: Path | None, batch: Sequence[NewPosting]) -> dict[str, Any]:
    with PostgresServer(durable=True, parent=parent) as server:
        load = closed_loop(DataLocation(folder, server.new_database()), batch, WRITERS)
        paced = open_loop(DataLocation(folder, server.new_database()), batch, PER_SECOND)
    return {
        "postgresql_images_per_s": len(batch) / load.seconds,
        "postgresql_commit_p99_ms": float(np.percentile(paced.latencies_ms, 99)),
    }


def _verified(folder: Path, batch: Sequence[NewPosting], at_least: int) -> dict[str, Any]:
    """Verify the ledger of the first round, after filling it up."""
    needed = at_least // len(batch[0].entries) + 1
    with open_ledger(folder, write=True) as ledger:
        more = postings(max(0, needed - len(batch)), first=len(batch))
        while part := list(islice(more, 200)):
            ledger.post(part)
        began = time.perf_counter()
        found = ledger.verify()
        seconds = time.perf_counter() - began
    if not found.ok:
        raise Failure(f"the ledger does not verify: {found.text()}")
    return {"verify_rows_per_s": found.entries / seconds, "verify_rows": found.entries, "verify_seconds": seconds}


def _owner_totals(folder: Path, total_entries: int) -> dict[str, Any]:
    """Read what every owner has, out of `total_entries` entries."""
    with open_ledger(folder, write=True) as ledger:
        wide = wide_postings(total_entries // WIDE_ENTRIES, WIDE_ENTRIES, WIDE_OWNERS)
        while part := list(islice(wide, WIDE_BATCH)):
            ledger.post(part)
    with open_ledger(folder) as ledger:
        taken_ms = [_read_owners(ledger) for _ in range(READS)]
    entries = _balances_equal_entries(folder)
    shutil.rmtree(folder)
    return {"owner_totals_ms": statistics.median(taken_ms), "owners": WIDE_OWNERS, "owner_totals_entries": entries}


def _read_owners(ledger: LedgerReader) -> float:
    began = time.perf_counter()
    found, after = 0, ""
    while page := ledger.owner_balances(after, MAX_PAGE).balances:
        found, after = found + len(page), page[-1].account
    if found != WIDE_OWNERS:
        raise Failure(f"{found} owners were read of {WIDE_OWNERS}")
    return 1_000 * (time.perf_counter() - began)


def _balances_equal_entries(folder: Path) -> int:
    """Number of entries. Raises Failure if a kept balance is not the sum of its entries."""
    connection = sqlite3.connect(ledger_file(folder))
    query = "SELECT account, sum(amount_micros), count(*) FROM entries GROUP BY account ORDER BY account"
    summed = connection.execute(query).fetchall()
    kept = connection.execute("SELECT account, balance_micros FROM balances ORDER BY account").fetchall()
    connection.close()
    if kept != [(account, amount) for account, amount, _ in summed]:
        raise Failure("balances are not the sums of the entries: this run measures nothing")
    return sum(count for *_, count in summed)


def _crashes(kills: int, power_losses: int) -> dict[str, Any]:
    killed = run_kills_in_process(kills, seed=1)
    cut = run_power_loss(power_losses, seed=1)
    return {
        "kills": kills,
        "kill_lost": killed["kill_lost"],
        "kill_doubled": killed["kill_doubled"],
        "reopen_max_ms": killed["reopen_max_ms"],
        "crash_images": power_losses,
        "crash_images_ok": cut["crash_images_ok"],
    }
