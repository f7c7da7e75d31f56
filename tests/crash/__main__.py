"""Command line of the crash tests: `python -m tests.crash ledger|decisions|serving|index`; `make crash` runs all."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich_click as click

from evaluation.bench.ledger_kills import run_kills_in_process
from evaluation.bench.power_loss import run_power_loss
from gmvaluator.report import write_report
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from tests.crash import index, serving
from tests.crash.decisions import check_decisions
from tests.crash.oracle import check_history

HISTORY = 400
"""Postings of one random history."""

_seed = click.option("--seed", default=1, show_default=True, help="The same seed tries the same moments and cases.")
_output = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output."
)


@click.group()
def crash() -> None:
    """Kill processes and cut the power at random moments, and check that nothing is lost.

    Each command writes a JSON report and exits with 1 if anything is lost, doubled or wrong.
    """


@crash.command("ledger")
@click.option("--kills", default=1_000, show_default=True, type=click.IntRange(1, 100_000), help="Processes to kill.")
@click.option("--images", default=500, show_default=True, type=click.IntRange(1, 100_000), help="Power losses.")
@click.option("--cases", default=100_000, show_default=True, type=click.IntRange(HISTORY), help="Oracle's postings.")
@_seed
@_output
def crash_ledger(kills: int, images: int, cases: int, seed: int, output: Path | None) -> None:
    """Kill a posting loop, cut its power, and compare random histories with the oracle.

    Example: python -m tests.crash ledger --kills 50 --images 20 --cases 2000
    """
    figures = {**_kill_figures(kills, seed), **_power_loss_figures(images, seed), **_oracle_figures(cases, seed)}
    options = f"--kills {kills} --images {images} --cases {cases} --seed {seed}"
    write_report(figures, f"python -m tests.crash ledger {options}", output)
    if output is not None:
        click.echo(f"{kills} kills, {images} power losses and {cases} cases: {output}", err=True)
    if not _ledger_passed(figures):
        sys.exit(1)


@crash.command("decisions")
@click.option("--histories", default=100, show_default=True, type=click.IntRange(1, 100_000), help="On each database.")
@click.option("--commands", default=60, show_default=True, type=click.IntRange(1, 10_000), help="Of each person.")
@_seed
@_output
def crash_decisions(histories: int, commands: int, seed: int, output: Path | None) -> None:
    """Let three people release, dispute, correct, close and pay at random, at the same time, and ask an oracle.

    Example: python -m tests.crash decisions --histories 5
    """
    figures = _decision_figures(histories, commands, seed)
    options = f"--histories {histories} --commands {commands} --seed {seed}"
    write_report(figures, f"python -m tests.crash decisions {options}", output)
    if figures["decisions_wrong"]:
        sys.exit(1)


@crash.command("serving")
@click.option("--kills", default=200, show_default=True, type=click.IntRange(1, 100_000), help="kill -9 under load.")
@click.option("--terms", default=100, show_default=True, type=click.IntRange(1, 100_000), help="SIGTERM under load.")
@_seed
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to resume an aborted run from.")
@_output
def crash_serving(kills: int, terms: int, seed: int, keep: Path | None, output: Path | None) -> None:
    """End the attributor under load, by kill -9 and by SIGTERM; a slow drain fails too.

    Example: python -m tests.crash serving --kills 5 --terms 5
    """
    figures: dict[str, Any] = {}
    for how, times in (("kill", kills), ("drain", terms)):
        with _folder(keep, f"{how}-{seed}") as folder:
            figures |= serving.run_ended(folder, how, times, seed, _progress(how, times))
    write_report(figures, f"python -m tests.crash serving --kills {kills} --terms {terms} --seed {seed}", output)
    if not serving.passed(figures):
        sys.exit(1)


@crash.command("index")
@click.option("--kills", default=100, show_default=True, type=click.IntRange(1, 100_000), help="In each moment.")
@_seed
@_output
def crash_index(kills: int, seed: int, output: Path | None) -> None:
    """Kill the index's engine during upsert, flush and build, and check that it loads.

    Example: python -m tests.crash index --kills 5
    """
    with tempfile.TemporaryDirectory(prefix="gmvaluator-kills-") as folder:
        figures = index.run_index_kills(Path(folder), kills, seed)
    write_report(figures, f"python -m tests.crash index --kills {kills} --seed {seed}", output)
    if not index.passed(figures):
        sys.exit(1)


def _kill_figures(kills: int, seed: int) -> dict[str, Any]:
    figures = run_kills_in_process(kills, seed)
    return {name if name.startswith("kill") else f"kill_{name}": value for name, value in figures.items()}


def _power_loss_figures(images: int, seed: int) -> dict[str, Any]:
    figures = run_power_loss(images, seed)
    return {name if name.startswith("crash") else f"power_{name}": value for name, value in figures.items()}


def _oracle_figures(cases: int, seed: int) -> dict[str, Any]:
    failures: list[str] = []
    histories = cases // HISTORY
    for number in range(histories):
        with tempfile.TemporaryDirectory(prefix="gmvaluator-oracle-") as folder:
            failures += check_history(DataLocation(Path(folder)), 1_000 * seed + number, HISTORY)
    return {"oracle_cases": histories * HISTORY, "oracle_histories": histories, "oracle_wrong": failures[:10]}


def _decision_figures(histories: int, commands: int, seed: int) -> dict[str, Any]:
    wrong: list[str] = []
    with PostgresServer() as server:
        for number in range(1_000 * seed, 1_000 * seed + histories):
            for url in ("", server.new_database()):
                with tempfile.TemporaryDirectory(prefix="gmvaluator-decisions-") as folder:
                    wrong += check_decisions(DataLocation(Path(folder), url), number, commands)
    return {"decisions_histories": 2 * histories, "decisions_wrong": wrong[:10]}


def _ledger_passed(figures: dict[str, Any]) -> bool:
    return (
        figures["kill_lost"] == figures["kill_doubled"] == 0
        and figures["kill_verify_ok"]
        and figures["kill_entries_equal_balances_equal_issue"]
        and figures["crash_images_ok"] == figures["crash_images"]
        and not figures["oracle_wrong"]
    )


@contextmanager
def _folder(keep: Path | None, name: str) -> Iterator[Path]:
    """Provide the folder `name` in `keep`, or a temporary one."""
    if keep is None:
        # The index engine ends a moment after its last user, and may still write there.
        with tempfile.TemporaryDirectory(prefix=f"gmvaluator-{name}-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    (keep / name).mkdir(parents=True, exist_ok=True)
    yield keep / name


def _progress(how: str, times: int) -> Callable[[int, int], None]:
    def show(done: int, answered: int) -> None:
        click.echo(f"{how}: {done} of {times} times, {answered} images answered", err=True)

    return show


if __name__ == "__main__":
    crash()
