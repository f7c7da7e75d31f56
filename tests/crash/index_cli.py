"""`python -m tests.crash.index_cli`: the third part of `make crash`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import rich_click as click

from gmvaluator.report import write_report
from tests.crash.index import run_index_kills, sound


@click.command()
@click.option("--kills", default=100, show_default=True, type=click.IntRange(1, 100_000), help="In each moment.")
@click.option("--seed", default=1, show_default=True, help="The same seed tries the same moments.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def crash_index(kills: int, seed: int, output: Path | None) -> None:
    """Kill the index's engine during upsert, flush and build; exits 1 if it does not load, or anything is lost.

    Example: python -m tests.crash.index_cli --kills 5
    """
    with tempfile.TemporaryDirectory(prefix="gmvaluator-kills-") as folder:
        figures = run_index_kills(Path(folder), kills, seed)
    write_report(figures, f"python -m tests.crash.index_cli --kills {kills} --seed {seed}", output)
    if not sound(figures):
        sys.exit(1)


if __name__ == "__main__":
    crash_index()
