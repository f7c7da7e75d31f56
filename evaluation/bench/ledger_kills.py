"""Kill -9 test of the ledger: acknowledged postings must be stored exactly once, and all sums must agree.

A child process posts batches and acknowledges each one on a pipe after its commit. Its parent kills it at a random
moment after the fork: while it opens, recovers, posts or checkpoints. The next child starts one batch before the end
of the acknowledgements, like a client that resends what was not answered.

    python -m evaluation.bench.ledger_kills --kills 1000 --seed 1 --folder FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmvaluator.errors import Failure
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.testing.postings import sample_posting

BATCH = 4
"""Postings per batch."""

LONGEST_LIFE_S = 0.2
"""Longest time from the fork of a child to its kill, in seconds."""

READY = b"ready"


@dataclass(slots=True)
class Acknowledged:
    """Acknowledgements of the killed children.

    postings: sequence number and hash by generation id. contradicted: acknowledgements that differ from an earlier
    one of the same id. reopen_ms: time from the fork until a child was ready to post, with recovery.
    """

    postings: dict[str, tuple[int, str]] = field(default_factory=dict)
    contradicted: int = 0
    killed_while_opening: int = 0
    reopen_ms: list[float] = field(default_factory=list)

    def add(self, generation: str, sequence: int, chain_hash: str) -> None:
        """Record an acknowledgement, and whether it contradicts an earlier one."""
        first = self.postings.setdefault(generation, (sequence, chain_hash))
        self.contradicted += first != (sequence, chain_hash)


def run_kills_in_process(kills: int, seed: int) -> dict[str, Any]:
    """Run `run_kills` in a process of its own, on a ledger in a temporary folder. Raises Failure."""
    # Forking is only safe in a process without threads, which the caller may not be.
    with tempfile.TemporaryDirectory(prefix="gmvaluator-kills-") as folder:
        options = ["--kills", str(kills), "--seed", str(seed), "--folder", folder]
        command = [sys.executable, "-m", "evaluation.bench.ledger_kills", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode != 0:
        raise Failure(f"the kills ended with exit code {done.returncode}; the message is above")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def run_kills(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill `kills` posting processes on a ledger in `folder`, check the ledger, and return the figures.

    The process must not have threads, because it forks. Raises RuntimeError if a child ends by itself.
    """
    moments = random.Random(seed)  # noqa: S311 - repeatable
    acknowledged = Acknowledged()
    # A child lives too briefly to create the schema.
    open_ledger(folder, write=True).close()
    for _ in range(kills):
        _killed_after(folder, acknowledged, moments.uniform(0, LONGEST_LIFE_S))
    return {"kills": kills, "seed": seed, **_checked(folder, acknowledged)}


def _killed_after(folder: Path, acknowledged: Acknowledged, life_s: float) -> None:
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _post_until_killed(folder, writing, max(0, len(acknowledged.postings) - BATCH))
    os.close(writing)
    time.sleep(life_s)
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines(keepends=True)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError(f"the posting process ended by itself ({os.waitstatus_to_exitcode(status)})")
    _record(lines, acknowledged, began)


def _record(lines: list[bytes], acknowledged: Acknowledged, began: float) -> None:
    complete = [line.split() for line in lines if line.endswith(b"\n")]
    if not complete:
        acknowledged.killed_while_opening += 1
        return
    acknowledged.reopen_ms.append(1_000 * (float(complete[0][1]) - began))
    for generation, sequence, chain_hash in complete[1:]:
        acknowledged.add(generation.decode(), int(sequence), chain_hash.decode())


def _post_until_killed(folder: Path, pipe: int, number: int) -> None:
    """Post batches from posting `number` on, and acknowledge them on `pipe`. Runs in the child; never returns."""
    try:
        with open_ledger(folder, write=True) as ledger:
            os.write(pipe, READY + f" {time.monotonic()}\n".encode())
            while True:
                batch = [sample_posting(posting_number) for posting_number in range(number, number + BATCH)]
                outcomes = ledger.post(batch)
                stored = [outcome.posting for outcome in outcomes if isinstance(outcome, Posted | Replayed)]
                lines = [f"{posting.header.generation_id} {posting.sequence} {posting.hash}\n" for posting in stored]
                os.write(pipe, "".join(lines).encode())
                number += BATCH
    finally:
        os._exit(1)  # an error: a killed child never gets here


def _checked(folder: Path, acknowledged: Acknowledged) -> dict[str, Any]:
    began = time.monotonic()
    with open_ledger(folder, write=True) as ledger:
        acknowledged.reopen_ms.append(1_000 * (time.monotonic() - began))
        verification, totals = ledger.verify(), ledger.totals()
        stored = {posting.header.generation_id: (posting.sequence, posting.hash) for posting in ledger.every_posting()}
    lost = [generation for generation, answer in acknowledged.postings.items() if stored.get(generation) != answer]
    issued = sum(sample_posting(number).evidence.issued_micros for number in range(totals.postings))
    return {
        "acknowledged": len(acknowledged.postings),
        "postings": totals.postings,
        "kill_lost": len(lost),
        "kill_doubled": acknowledged.contradicted + totals.postings - len(stored),
        "killed_while_opening": acknowledged.killed_while_opening,
        "verify_ok": verification.ok,
        "entries_equal_balances_equal_issue": totals.reconciles
        and _sums(folder) == (totals.issued_micros, totals.issued_micros)
        and totals.issued_micros == issued,
        "reopen_max_ms": max(acknowledged.reopen_ms),
    }


def _sums(folder: Path) -> tuple[int, int]:
    """Return the credited total, in micro-credits, by the entries and by the balances."""
    connection = sqlite3.connect(ledger_file(folder))
    sums = [
        connection.execute(f"SELECT sum({amount}) FROM {table} WHERE account <> 'issuance'").fetchone()[0]  # noqa: S608 - our own names
        for table, amount in (("entries", "amount_micros"), ("balances", "balance_micros"))
    ]
    connection.close()
    return sums[0] or 0, sums[1] or 0


def main() -> None:
    """Run the kills with the options of the command line, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Kill a posting loop again and again, and check its ledger.")
    for name, kind in (("--kills", int), ("--seed", int), ("--folder", Path)):
        parser.add_argument(name, type=kind, required=True)
    options = parser.parse_args()
    print(json.dumps(run_kills(options.folder, options.kills, options.seed)))  # noqa: T201


if __name__ == "__main__":
    main()
