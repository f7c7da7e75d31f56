"""Fuzzing command: runs the cases of a target in a child process; one that fails ends the run and is named."""

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

from attributor.workers.decoder_child import limit_memory
from gmvaluator.report import write_report
from tests.fuzz.mutations import case
from tests.fuzz.targets import TARGETS, seeds

HANG_S = 20
PROGRESS_CASES = 20_000


def run(target: str, first: int, count: int, current: mmap.mmap) -> None:
    """Run the cases; `current` holds the number of the running one, 8 bytes, which outlives a crash."""
    faulthandler.enable()
    limit_memory()
    signal.signal(signal.SIGALRM, _hangs)
    for number in range(first, first + count):
        current[:8] = number.to_bytes(8, "little")
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
    """Run cases of one target; return their count and time, the exit code, and the number of the case that failed."""
    current, began = mmap.mmap(-1, 8), time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=run, args=(target, first, cases, current))
    process.start()
    process.join()
    failed = int.from_bytes(current[:8], "little") if process.exitcode else None
    values = {"cases": cases, "seconds": time.monotonic() - began, "exit_code": process.exitcode, "found_case": failed}
    return {f"{target}_{name}": value for name, value in values.items()}


if __name__ == "__main__":
    main()
