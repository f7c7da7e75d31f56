"""`make crash`: kills, power losses and random histories against the oracle, in full; the report goes to a file.

Running the kills in a process of their own, which forks and therefore must have no threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.errors import Failure
from gmvaluator.report import write_report
from gmvaluator.storage.database import DataLocation
from tests.crash.oracle import check_history
from tests.crash.power_loss import run_power_loss


def run_kills_apart(kills: int, seed: int) -> dict[str, Any]:
    """See `tests.crash.kills.run_kills`; the ledger is in a temporary folder. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="gmvaluator-kills-") as folder:
        words = ["--kills", str(kills), "--seed", str(seed), "--folder", folder]
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.kills", *words], stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode != 0:
        raise Failure(f"the kills ended with exit code {done.returncode}; the message is above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


HISTORY = 400
"""Postings of one history."""


@click.command()
@click.option("--kills", default=1_000, show_default=True, type=click.IntRange(1, 100_000), help="Processes to kill.")
@click.option("--images", default=500, show_default=True, type=click.IntRange(1, 100_000), help="Power losses.")
@click.option("--cases", default=100_000, show_default=True, type=click.IntRange(HISTORY), help="Oracle's postings.")
@click.option("--seed", default=1, show_default=True, help="The same seed tries the same moments and cases.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def crash(kills: int, images: int, cases: int, seed: int, output: Path | None) -> None:
    """Kill a posting loop, cut its power, and check random histories; exits 1 if anything is lost, doubled or wrong.

    Example: python -m tests.crash --kills 50 --images 20 --cases 2000
    """
    figures = {**_kills(kills, seed), **_power(images, seed), **_oracle(cases, seed)}
    command = f"python -m tests.crash --kills {kills} --images {images} --cases {cases} --seed {seed}"
    write_report(figures, command, output)
    if output is not None:
        click.echo(f"{kills} kills, {images} power losses and {cases} cases: {output}", err=True)
    if not _sound(figures):
        sys.exit(1)


def _kills(kills: int, seed: int) -> dict[str, Any]:
    found = run_kills_apart(kills, seed)
    return {name if name.startswith("kill") else f"kill_{name}": value for name, value in found.items()}


def _power(images: int, seed: int) -> dict[str, Any]:
    found = run_power_loss(images, seed)
    return {name if name.startswith("crash") else f"power_{name}": value for name, value in found.items()}


def _oracle(cases: int, seed: int) -> dict[str, Any]:
    wrong: list[str] = []
    histories = cases // HISTORY
    for number in range(histories):
        with tempfile.TemporaryDirectory(prefix="gmvaluator-oracle-") as folder:
            wrong += check_history(DataLocation(Path(folder)), 1_000 * seed + number, HISTORY)
    return {"oracle_cases": histories * HISTORY, "oracle_histories": histories, "oracle_wrong": wrong[:10]}


def _sound(figures: dict[str, Any]) -> bool:
    return (
        figures["kill_lost"] == figures["kill_doubled"] == 0
        and figures["kill_verify_ok"]
        and figures["kill_entries_equal_balances_equal_issue"]
        and figures["crash_images_ok"] == figures["crash_images"]
        and not figures["oracle_wrong"]
    )


if __name__ == "__main__":
    crash()
