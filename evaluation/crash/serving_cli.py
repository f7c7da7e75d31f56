"""`python -m evaluation.crash.serving_cli`: the second half of `make crash`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import rich_click as click

from evaluation.crash.serving import run_ended
from gmvaluator.report import report

MOST_EXIT_S = 30.0


@click.command()
@click.option("--kills", default=200, show_default=True, type=click.IntRange(1, 100_000), help="kill -9 under load.")
@click.option("--terms", default=100, show_default=True, type=click.IntRange(1, 100_000), help="SIGTERM under load.")
@click.option("--seed", default=1, show_default=True, help="The same seed tries the same moments.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def crash_serving(kills: int, terms: int, seed: int, output: Path | None) -> None:
    """End the attributor under load, again and again; exits 1 if anything is lost or doubled, or a drain is slow.

    Example: python -m evaluation.crash.serving_cli --kills 5 --terms 5
    """
    figures: dict[str, Any] = {}
    for how, times in (("kill", kills), ("drain", terms)):
        with tempfile.TemporaryDirectory(prefix=f"gmvaluator-{how}-") as folder:
            figures |= run_ended(Path(folder), how, times, seed)
    command = f"python -m evaluation.crash.serving_cli --kills {kills} --terms {terms} --seed {seed}"
    text = json.dumps(report(figures, command), indent=2) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
    if not sound(figures):
        sys.exit(1)


def sound(figures: dict[str, Any]) -> bool:
    """True if nothing was lost or doubled, all adds up, and every drain ended well and in time."""
    return (
        all(figures[f"{how}_{what}"] == 0 for how in ("kill", "drain") for what in ("lost", "doubled"))
        and all(figures[f"{how}_{what}"] for how in ("kill", "drain") for what in ("sums_equal", "verify_ok"))
        and figures["drain_exit_max_s"] <= MOST_EXIT_S
        and figures["drain_exit_codes_wrong"] == 0
    )


if __name__ == "__main__":
    crash_serving()
