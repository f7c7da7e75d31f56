"""`python -m tests.crash.serving_cli`: the second half of `make crash`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.report import write_report
from tests.crash.serving import run_ended

MOST_EXIT_S = 30.0


@click.command()
@click.option("--kills", default=200, show_default=True, type=click.IntRange(1, 100_000), help="kill -9 under load.")
@click.option("--terms", default=100, show_default=True, type=click.IntRange(1, 100_000), help="SIGTERM under load.")
@click.option("--seed", default=1, show_default=True, help="The same seed tries the same moments.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder from which a cut run goes on.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def crash_serving(kills: int, terms: int, seed: int, keep: Path | None, output: Path | None) -> None:
    """End the attributor under load, again and again; exits 1 if anything is lost or doubled, or a drain is slow.

    Example: python -m tests.crash.serving_cli --kills 5 --terms 5
    """
    figures: dict[str, Any] = {}
    for how, times in (("kill", kills), ("drain", terms)):
        with _folder(keep, f"{how}-{seed}") as folder:
            figures |= run_ended(folder, how, times, seed, _telling(how, times))
    command = f"python -m tests.crash.serving_cli --kills {kills} --terms {terms} --seed {seed}"
    write_report(figures, command, output)
    if not sound(figures):
        sys.exit(1)


@contextmanager
def _folder(keep: Path | None, name: str) -> Iterator[Path]:
    """One that stays, or one that goes."""
    if keep is None:
        # The index engine ends a moment after its last user, and may still write there.
        with tempfile.TemporaryDirectory(prefix=f"gmvaluator-{name}-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    (keep / name).mkdir(parents=True, exist_ok=True)
    yield keep / name


def _telling(how: str, times: int) -> Callable[[int, int], None]:
    def tell(done: int, answered: int) -> None:
        click.echo(f"{how}: {done} of {times} times, {answered} images answered", err=True)

    return tell


def sound(figures: dict[str, Any]) -> bool:
    """True if nothing was lost or doubled, all adds up, and every drain ended well and in time."""
    return (
        all(figures[f"{how}_{what}"] == 0 for how in ("kill", "drain") for what in ("lost", "doubled"))
        and all(
            figures[f"{how}_{what}"] for how in ("kill", "drain") for what in ("answered", "sums_equal", "verify_ok")
        )
        and not any(figures[f"{how}_unexpected_errors"] for how in ("kill", "drain"))
        and figures["drain_exit_max_s"] <= MOST_EXIT_S
        and figures["drain_exit_codes_wrong"] == 0
    )


if __name__ == "__main__":
    crash_serving()
