"""How far a run is: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from indexer.pipeline import Report

LINE_EVERY_S = 5.0

Advance = Callable[[Report], None]


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A function to call with the report after each batch."""
    if sys.stderr.isatty():
        with _bar(total) as advance:
            yield advance
    else:
        yield _lines(total)


@contextmanager
def _bar(total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s, {task.fields[rejects]} rejected"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("indexing", total=total, rate="-", rejects=0)

        def advance(report: Report) -> None:
            rate = f"{report.read / (time.monotonic() - started):.0f}"
            bar.update(task, completed=report.read, rate=rate, rejects=len(report.rejects))

        yield advance


def _lines(total: int) -> Advance:
    started = time.monotonic()
    last = started

    def advance(report: Report) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_EVERY_S and report.read < total:
            return
        last = now
        rate = report.read / (now - started)
        left_s = (total - report.read) / rate
        rejects = len(report.rejects)
        click.echo(
            f"indexing {report.read:,}/{total:,}, {rate:.0f} images/s, {rejects} rejected, {left_s:.0f} s left",
            err=True,
        )

    return advance
