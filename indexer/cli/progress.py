"""Progress of a run on stderr, as a bar on a terminal and plain lines elsewhere; graceful stops by signals."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from indexer.report import Counts

LINE_EVERY_S = 5.0
"""Seconds between two lines of progress."""

Advance = Callable[[Counts], None]
"""Shows all counts of the run so far."""


@contextmanager
def progress(total: int | None) -> Iterator[Advance]:
    """Yield a function to call after each batch. total: rows of the source, or None if unknown before reading."""
    if sys.stderr.isatty():
        with _bar(total) as advance:
            yield advance
    else:
        yield _lines(total)


class _Rate:
    """Images per second of this run, without those that an earlier run read."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before: int | None = None

    def update(self, counts: Counts) -> float:
        """Return the rate up to these counts; the first counts include what an earlier run read."""
        if self._before is None:
            self._before, self._started = counts.read, time.monotonic()
        return (counts.read - self._before) / max(time.monotonic() - self._started, 1e-9)


@contextmanager
def _bar(total: int | None) -> Iterator[Advance]:
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s, {task.fields[out]} left out"),
        TimeRemainingColumn(),
    )
    rate = _Rate()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("indexing", total=total, rate="-", out=0)

        def advance(counts: Counts) -> None:
            bar.update(task, completed=counts.read, rate=f"{rate.update(counts):.0f}", out=counts.left_out)

        yield advance


def _lines(total: int | None) -> Advance:
    rate = _Rate()
    last = time.monotonic()

    def advance(counts: Counts) -> None:
        nonlocal last
        per_s = rate.update(counts)
        now = time.monotonic()
        if now - last < LINE_EVERY_S and counts.read != total:
            return
        last = now
        click.echo(_line(counts, total, per_s), err=True)

    return advance


def _line(counts: Counts, total: int | None, per_s: float) -> str:
    of_total = f"/{total:,}" if total is not None else ""
    left = f", {(total - counts.read) / per_s:.0f} s left" if total is not None and per_s > 0 else ""
    return (
        f"indexing {counts.read:,}{of_total}, {per_s:.0f} images/s, {counts.opt_outs} opted out, "
        f"{counts.rejects} rejected, {counts.removed} removed before{left}"
    )


@contextmanager
def stopping_by_signal() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets, to stop after the batch; a second one stops at once."""
    stopping = threading.Event()

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        click.echo("stopping as soon as nothing is half done; run the same command again to go on", err=True)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
