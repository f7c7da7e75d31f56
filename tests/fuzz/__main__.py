"""Runs a target's cases in a process of their own: a crash, a hang or another error names the case and ends the run."""

import faulthandler
import json
import mmap
import multiprocessing
import signal
import sys
import time
from types import FrameType

import rich_click as click

from attributor.decoder_child import bound_memory
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
@click.argument("target", type=click.Choice(list(TARGETS)))
@click.option("--cases", default=1_000_000, show_default=True, type=click.IntRange(1))
@click.option("--first", default=0, show_default=True, help="Number of the first case.")
def main(target: str, cases: int, first: int) -> None:
    """Fuzz TARGET and print what was run as JSON; exit code 1 if a case was found.

    Example: python -m tests.fuzz decode --cases 10000
    """
    place, began = mmap.mmap(-1, 8), time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=run, args=(target, first, cases, place))
    process.start()
    process.join()
    seconds = time.monotonic() - began
    found = {"target": target, "cases": cases, "seconds": seconds, "exit_code": process.exitcode}
    if process.exitcode != 0:
        found["case"] = int.from_bytes(place[:8], "little")
    click.echo(json.dumps(found))
    sys.exit(0 if process.exitcode == 0 else 1)


if __name__ == "__main__":
    main()
