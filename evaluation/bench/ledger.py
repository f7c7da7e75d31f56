"""`gmvaluator bench ledger`: speed of durable postings, compared with a plain sqlite3 loop and the disk's fsync.

The load goes through the group-commit writer that the attributor uses, as a closed loop and as an open loop.
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
    write_rows,
)
from evaluation.bench.ledger_kills import run_kills_in_process
from evaluation.bench.power_loss import run_power_loss
from gmvaluator.errors import Failure, GmvaluatorError
from gmvaluator.ledger.group_commit import Decide, LedgerWriter, Result
from gmvaluator.ledger.reader import MAX_PAGE, LedgerReader
from gmvaluator.ledger.records import NewPosting
from gmvaluator.ledger.results import Outcome
from gmvaluator.ledger.store import Ledger, ledger_file, open_ledger
from gmvaluator.ledger.writer import AnyPosting
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer

WRITERS = 32
"""Callers of the closed loop."""

PER_SECOND = 300.0
"""Postings per second of the open loop."""

ROUNDS = 3
"""Rounds of the closed loop, each followed by the baseline."""

WIDE_ENTRIES = 10_000
"""Entries per posting in the ledger whose totals are read."""

WIDE_OWNERS = 10_000
WIDE_BATCH = 10
READS = 15


@dataclass(slots=True)
class Recorded:
    """A ledger that records the sizes of the commits into which postings are grouped."""

    ledger: Ledger
    batches: list[int] = field(default_factory=list)

    def post(self, batch: Sequence[AnyPosting]) -> Sequence[Outcome]:
        self.batches.append(len(batch))
        return self.ledger.post(batch)

    def decide(self, decision: Decide[Result]) -> Result:
        return self.ledger.decide(decision)

    def check_in_place(self) -> None:
        self.ledger.check_in_place()

    def close(self) -> None:
        self.ledger.close()


@dataclass(frozen=True, slots=True)
class Load:
    """The measurements of a load.

    latencies_ms: from when a posting was due until its answer, which follows the commit. batches: postings per commit.
    """

    seconds: float
    latencies_ms: list[float]
    batches: list[int]


def closed_loop(location: DataLocation, postings: Sequence[NewPosting], writers: int) -> Load:
    """Post from `writers` callers, each of which sends its next posting once the previous one is durable."""
    return asyncio.run(_measure(location, lambda writer: _closed_loop(writer, iter(postings), writers)))


def open_loop(location: DataLocation, postings: Sequence[NewPosting], per_second: float) -> Load:
    """Post at a fixed rate, whether or not earlier postings were answered."""
    return asyncio.run(_measure(location, lambda writer: _open_loop(writer, postings, per_second)))


async def _measure(location: DataLocation, load: Callable[[LedgerWriter], Awaitable[list[float]]]) -> Load:
    opened: list[Recorded] = []

    def recorded() -> Recorded:
        opened.append(Recorded(open_ledger(location, write=True)))
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


async def _open_loop(writer: LedgerWriter, postings: Sequence[NewPosting], per_second: float) -> list[float]:
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


def bench_ledger(images: int, total_entries: int, kills: int, power_losses: int, parent: Path | None) -> dict[str, Any]:
    """Run the benchmark on the disk of `parent` (default: the temporary folder's), and return its figures.

    Postings are encoded in advance, as `build_posting` does in the attributor; encode_ms is the time for that.
    durable_images_per_s: closed loop through the group-commit writer, median of three rounds. Each round is followed
    by the baseline, which writes the same rows; ratio_to_bare_sqlite is the ratio of the summed times. commit_p99_ms:
    at 300 images/s, from when an image was due until its commit was answered.
    """
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", dir=parent) as name:
        folder = Path(name)
        began = time.process_time()
        batch = list(postings(images))
        encode_ms = 1_000 * (time.process_time() - began) / images
        return {
            **_throughput(folder, batch),
            **_latency(folder, batch),
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


def _throughput(folder: Path, batch: Sequence[NewPosting]) -> dict[str, Any]:
    ledger_s: list[float] = []
    baseline_s: list[float] = []
    latencies_ms: list[float] = []
    commits = 0
    for number in range(ROUNDS):
        gc.collect()
        load = closed_loop(DataLocation(folder / f"ledger-{number}"), batch, WRITERS)
        rows = rows_of(folder / f"ledger-{number}", load.batches)
        gc.collect()
        baseline_s.append(write_rows(folder / f"bare-{number}", rows))
        ledger_s.append(load.seconds)
        latencies_ms += load.latencies_ms
        commits += len(load.batches)
    return {
        "durable_images_per_s": len(batch) / statistics.median(ledger_s),
        "bare_images_per_s": len(batch) / statistics.median(baseline_s),
        "ratio_to_bare_sqlite": sum(baseline_s) / sum(ledger_s),
        "images_per_commit": ROUNDS * len(batch) / commits,
        "closed_p99_ms": float(np.percentile(latencies_ms, 99)),
    }


def _latency(folder: Path, batch: Sequence[NewPosting]) -> dict[str, Any]:
    gc.collect()
    load = open_loop(DataLocation(folder / "open"), batch, PER_SECOND)
    return {
        "commit_p50_ms": float(np.percentile(load.latencies_ms, 50)),
        "commit_p99_ms": float(np.percentile(load.latencies_ms, 99)),
        "open_loop_per_s": PER_SECOND,
    }


def _fsync(folder: Path) -> dict[str, Any]:
    latencies_ms = fsync_ms(folder)
    return {"fsync_p50_ms": statistics.median(latencies_ms), "fsync_p99_ms": float(np.percentile(latencies_ms, 99))}


def _postgresql(folder: Path, parent: Path | None, batch: Sequence[NewPosting]) -> dict[str, Any]:
    with PostgresServer(durable=True, parent=parent) as server:
        load = closed_loop(DataLocation(folder / "closed-loop", server.new_database()), batch, WRITERS)
        steady = open_loop(DataLocation(folder / "open-loop", server.new_database()), batch, PER_SECOND)
    return {
        "postgresql_images_per_s": len(batch) / load.seconds,
        "postgresql_commit_p99_ms": float(np.percentile(steady.latencies_ms, 99)),
    }


def _verified(folder: Path, batch: Sequence[NewPosting], at_least: int) -> dict[str, Any]:
    """Measure the verification of the first round's ledger, filled up to `at_least` entries. Raises Failure."""
    needed = at_least // len(batch[0].entries) + 1
    with open_ledger(folder, write=True) as ledger:
        more = postings(max(0, needed - len(batch)), first=len(batch))
        while postings_batch := list(islice(more, 200)):
            ledger.post(postings_batch)
        began = time.perf_counter()
        verification = ledger.verify()
        seconds = time.perf_counter() - began
    if not verification.ok:
        raise Failure(f"the ledger does not verify: {verification.text()}")
    entries = verification.entries
    return {"verify_rows_per_s": entries / seconds, "verify_rows": entries, "verify_seconds": seconds}


def _owner_totals(folder: Path, total_entries: int) -> dict[str, Any]:
    """Measure how long it takes to read all owners' balances over `total_entries` entries."""
    with open_ledger(folder, write=True) as ledger:
        wide = wide_postings(total_entries // WIDE_ENTRIES, WIDE_ENTRIES, WIDE_OWNERS)
        while part := list(islice(wide, WIDE_BATCH)):
            ledger.post(part)
    with open_ledger(folder) as ledger:
        latencies_ms = [_read_owners(ledger) for _ in range(READS)]
    entries = _balances_equal_entries(folder)
    shutil.rmtree(folder)
    return {"owner_totals_ms": statistics.median(latencies_ms), "owners": WIDE_OWNERS, "owner_totals_entries": entries}


def _read_owners(ledger: LedgerReader) -> float:
    began = time.perf_counter()
    count, after = 0, ""
    while page := ledger.owner_balances(after, MAX_PAGE).balances:
        count, after = count + len(page), page[-1].account
    if count != WIDE_OWNERS:
        raise Failure(f"{count} owners were read of {WIDE_OWNERS}")
    return 1_000 * (time.perf_counter() - began)


def _balances_equal_entries(folder: Path) -> int:
    """Return the number of entries. Raises Failure if a stored balance is not the sum of its entries."""
    connection = sqlite3.connect(ledger_file(folder))
    query = "SELECT account, sum(amount_micros), count(*) FROM entries GROUP BY account ORDER BY account"
    summed = connection.execute(query).fetchall()
    balances = connection.execute("SELECT account, balance_micros FROM balances ORDER BY account").fetchall()
    connection.close()
    if balances != [(account, amount) for account, amount, _ in summed]:
        raise Failure("balances are not the sums of the entries: this run measures nothing")
    return sum(count for *_, count in summed)


def _crashes(kills: int, power_losses: int) -> dict[str, Any]:
    killed = run_kills_in_process(kills, seed=1)
    power_lost = run_power_loss(power_losses, seed=1)
    return {
        "kills": kills,
        "kill_lost": killed["kill_lost"],
        "kill_doubled": killed["kill_doubled"],
        "reopen_max_ms": killed["reopen_max_ms"],
        "crash_images": power_losses,
        "crash_images_ok": power_lost["crash_images_ok"],
    }
