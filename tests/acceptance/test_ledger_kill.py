"""kill -9 at any moment of a posting loop: what was acknowledged is there, once, and the sums are right."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from gmvaluator.ledger.answers import Replayed
from gmvaluator.ledger.store import open_ledger
from gmvaluator.testing.postings import sample_posting

KILLS = 20
BATCH = 4

# Posts batches from a given number on and acknowledges each on stdout, after the commit, as the attributor does.
LOOP = """
import sys
from pathlib import Path
from gmvaluator.ledger.store import open_ledger
from gmvaluator.testing.postings import sample_posting

number, size = int(sys.argv[2]), int(sys.argv[3])
with open_ledger(Path(sys.argv[1]), write=True) as ledger:
    print("ready", flush=True)
    while True:
        batch = [sample_posting(one) for one in range(number, number + size)]
        for posting, outcome in zip(batch, ledger.post(batch), strict=True):
            print(posting.generation_id, outcome.posting.sequence, outcome.posting.hash, flush=True)
        number += size
"""


def post_until_killed(folder: Path, start: int, moment_s: float) -> list[tuple[str, int, str]]:
    """What the loop acknowledged before it was killed, `moment_s` after it was ready."""
    command = [sys.executable, "-c", LOOP, str(folder), str(start), str(BATCH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n"
        time.sleep(moment_s)
        loop.kill()
        lines = loop.stdout.read().splitlines(keepends=True)
    assert loop.returncode == -signal.SIGKILL
    words = [line.split() for line in lines if line.endswith("\n")]
    return [(generation, int(sequence), chain_hash) for generation, sequence, chain_hash in words]


def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    moments = random.Random(7)
    acknowledged: dict[str, tuple[int, str]] = {}
    for _ in range(KILLS):
        # Each round begins one batch back, as a client does that resends what was not answered.
        start = max(0, len(acknowledged) - BATCH)
        for generation, sequence, chain_hash in post_until_killed(tmp_path, start, moments.uniform(0, 0.15)):
            before = acknowledged.setdefault(generation, (sequence, chain_hash))
            assert before == (sequence, chain_hash), "a resent id was answered otherwise"
    with open_ledger(tmp_path, write=True) as ledger:
        assert ledger.verify().ok
        totals = ledger.totals()
        assert totals.reconciles
        stored = {one.header.generation_id: (one.sequence, one.hash) for one in ledger.every_posting()}
        assert len(stored) == totals.postings
        assert acknowledged.items() <= stored.items()
        assert len(acknowledged) > KILLS
        numbers = range(totals.postings)
        assert set(stored) == {f"generation-{number}" for number in numbers}
        assert totals.issued_micros == sum(sample_posting(number).evidence.issued_micros for number in numbers)
        again = ledger.post([sample_posting(number) for number in numbers][:1_000])
        assert all(isinstance(outcome, Replayed) for outcome in again)
