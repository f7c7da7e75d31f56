"""Runs a target's cases in a process of their own: a crash, a hang or another error names the case and ends the run."""

import faulthandler
import mmap
import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import rich_click as click

from attributor.workers.decoder_child import bound_memory
from gmvaluator.report import write_report
from tests.fuzz.mutations import case
from tests.fuzz.targets import TARGETS, seeds

HANG_S = 20
PROGRESS_CASES = 20_000


def run(target: str, first: int, count: int, place: mmap.mmap) -> None:
    """All cases; the number of the one in hand stands in `place`."""
    faulthandler.enable()
    bound_memory()
    signal.signal(signal.SIGALRM, _hangs)
    for number in range(first, first + count):
        place[:8] = number.to_bytes(8, "little")
        signal.alarm(HANG_S)
        TARGETS[target](case(seeds(target), number))
        if number % PROGRESS_CASES == 0:
            print(f"{target}: case {number:,}", file=sys.stderr, flush=True)  # noqa: T201


def _hangs(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a case takes over {HANG_S} s")


@click.command()
@click.argument("targets", type=click.Choice(list(TARGETS)), nargs=-1, required=True)
@click.option("--cases", default=1_000_000, show_default=True, type=click.IntRange(1), help="Of each target.")
@click.option("--first", default=0, show_default=True, help="Number of the first case.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def main(targets: Sequence[str], cases: int, first: int, output: Path | None) -> None:
    """Fuzz TARGETS one after the other, and report what was run; exit code 1 if a case was found.

    Example: python -m tests.fuzz decode request --cases 10000
    """
    figures: dict[str, int | float | None] = {}
    for target in targets:
        figures |= fuzz(target, first, cases)
    write_report(figures, f"python -m tests.fuzz {' '.join(targets)} --cases {cases} --first {first}", output)
    sys.exit(1 if any(figures[f"{target}_exit_code"] for target in targets) else 0)


def fuzz(target: str, first: int, cases: int) -> dict[str, int | float | None]:
    """Cases of one target, how long they took, how the process ended, and the number of the case that ended it."""
    place, began = mmap.mmap(-1, 8), time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=run, args=(target, first, cases, place))
    process.start()
    process.join()
    found = int.from_bytes(place[:8], "little") if process.exitcode else None
    values = {"cases": cases, "seconds": time.monotonic() - began, "exit_code": process.exitcode, "found_case": found}
    return {f"{target}_{name}": value for name, value in values.items()}


if __name__ == "__main__":
    main()
