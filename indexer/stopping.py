"""Stopping between batches when a signal asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import rich_click as click


@contextmanager
def stopping_by_signal() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM: the batch in hand is finished. A second one stops at once."""
    stopping = threading.Event()

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        click.echo("stopping as soon as nothing is half done; run the same command again to go on", err=True)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
