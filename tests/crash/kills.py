"""kill -9 at random moments of a posting loop: what was acknowledged is there, once, and everything adds up.

One process posts and acknowledges each batch on a pipe after the commit; its parent kills it at a random moment after
the fork (while opening, recovering, posting or checkpointing), and the next one begins where the acknowledgements end,
one batch back, as a client does that resends what was not answered.

    python -m tests.crash.kills --kills 1000 --folder FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.testing.postings import sample_posting

BATCH = 4
LONGEST_LIFE_S = 0.2
READY = b"ready"


@dataclass(slots=True)
class Acknowledged:
    """What the killed processes answered. reopen_ms: from fork to being ready to post, recovery included."""

    postings: dict[str, tuple[int, str]] = field(default_factory=dict)
    contradicted: int = 0
    killed_while_opening: int = 0
    reopen_ms: list[float] = field(default_factory=list)

    def add(self, generation: str, sequence: int, chain_hash: str) -> None:
        """Note an answer, and whether an earlier one for the same id said otherwise."""
        before = self.postings.setdefault(generation, (sequence, chain_hash))
        self.contradicted += before != (sequence, chain_hash)


def run_kills(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill `kills` posting processes on one ledger in `folder`, then check it. Figures of the outcome."""
    moments = random.Random(seed)
    answers = Acknowledged()
    # Made here: a process that lives so briefly would never get beyond making the schema.
    open_ledger(folder, write=True).close()
    for _ in range(kills):
        _killed_after(folder, answers, moments.uniform(0, LONGEST_LIFE_S))
    return {"kills": kills, "seed": seed, **_checked(folder, answers)}


def _killed_after(folder: Path, answers: Acknowledged, life_s: float) -> None:
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _post_for_ever(folder, writing, max(0, len(answers.postings) - BATCH))
    os.close(writing)
    time.sleep(life_s)
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines(keepends=True)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError(f"the posting process ended by itself ({os.waitstatus_to_exitcode(status)})")
    _take(lines, answers, began)


def _take(lines: list[bytes], answers: Acknowledged, began: float) -> None:
    whole = [line.split() for line in lines if line.endswith(b"\n")]
    if not whole:
        answers.killed_while_opening += 1
        return
    answers.reopen_ms.append(1_000 * (float(whole[0][1]) - began))
    for generation, sequence, chain_hash in whole[1:]:
        answers.add(generation.decode(), int(sequence), chain_hash.decode())


def _post_for_ever(folder: Path, pipe: int, number: int) -> None:
    """The child: never returns."""
    try:
        with open_ledger(folder, write=True) as ledger:
            os.write(pipe, READY + f" {time.monotonic()}\n".encode())
            while True:
                batch = [sample_posting(one) for one in range(number, number + BATCH)]
                outcomes = ledger.post(batch)
                made = [one.posting for one in outcomes if isinstance(one, Posted | Replayed)]
                text = "".join(f"{one.header.generation_id} {one.sequence} {one.hash}\n" for one in made)
                os.write(pipe, text.encode())
                number += BATCH
    finally:
        os._exit(1)


def _checked(folder: Path, answers: Acknowledged) -> dict[str, Any]:
    began = time.monotonic()
    with open_ledger(folder, write=True) as ledger:
        answers.reopen_ms.append(1_000 * (time.monotonic() - began))
        verification, totals = ledger.verify(), ledger.totals()
        stored = {one.header.generation_id: (one.sequence, one.hash) for one in ledger.every_posting()}
    lost = [generation for generation, answer in answers.postings.items() if stored.get(generation) != answer]
    issued = sum(sample_posting(number).evidence.issued_micros for number in range(totals.postings))
    return {
        "acknowledged": len(answers.postings),
        "postings": totals.postings,
        "kill_lost": len(lost),
        "kill_doubled": answers.contradicted + totals.postings - len(stored),
        "killed_while_opening": answers.killed_while_opening,
        "verify_ok": verification.ok,
        "entries_equal_balances_equal_issue": totals.reconciles
        and _sums(folder) == (totals.issued_micros, totals.issued_micros)
        and totals.issued_micros == issued,
        "reopen_max_ms": max(answers.reopen_ms),
    }


def _sums(folder: Path) -> tuple[int, int]:
    """What the entries and what the balances say was credited."""
    connection = sqlite3.connect(ledger_file(folder))
    sums = [
        connection.execute(f"SELECT sum({amount}) FROM {table} WHERE account <> 'issuance'").fetchone()[0]
        for table, amount in (("entries", "amount_micros"), ("balances", "balance_micros"))
    ]
    connection.close()
    return sums[0] or 0, sums[1] or 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill a posting loop again and again, and check its ledger.")
    for name, kind in (("--kills", int), ("--seed", int), ("--folder", Path)):
        parser.add_argument(name, type=kind, required=True)
    asked = parser.parse_args()
    print(json.dumps(run_kills(asked.folder, asked.kills, asked.seed)))  # noqa: T201
