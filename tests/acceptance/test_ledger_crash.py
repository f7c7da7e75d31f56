"""Short versions of `make crash`: kills, power losses, and random histories against the oracle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.bench.power_loss import run_power_loss
from gmvaluator.storage.database import DataLocation
from tests.crash.oracle import check_history

KILLS = 40
IMAGES = 40
HISTORIES = 6
CASES = 250


def test_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    words = ["--kills", str(KILLS), "--seed", "7", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.kills", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["acknowledged"] > 0
    assert (found["kill_lost"], found["kill_doubled"]) == (0, 0)
    assert found["verify_ok"]
    assert found["entries_equal_balances_equal_issue"]


def test_a_power_loss_at_any_moment_keeps_what_was_acknowledged() -> None:
    found = run_power_loss(IMAGES, seed=3, postings=120)
    assert found["failures"] == []
    assert found["crash_images_ok"] == IMAGES
    assert found["recorded_checkpoints"] > 1
    assert found["unsynced_writes_per_image"] > 1


def test_without_fsync_a_power_loss_is_seen_to_lose_postings() -> None:
    found = run_power_loss(8, seed=3, postings=60, synchronous="OFF")
    assert found["crash_images_ok"] < 8


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_any_history_in_any_order_batches_and_threads_is_what_the_oracle_says(tmp_path: Path, seed: int) -> None:
    assert check_history(DataLocation(tmp_path), seed, CASES) == []
