"""The log beside the event loop: whoever reads stderr slowly, or not at all, holds up no call."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

MAX_LINES = 10_000
"""Lines that wait to be written; more are dropped, and counted."""

GATHER_S = 0.02
"""Lines of so long are written together: a thread that woke for each would take turns with the event loop."""

CLOSE_S = 2.0
"""How long the end of the process may wait for what is yet to be written."""


class Stream(Protocol):
    """Where lines go in the end, such as `sys.stderr`."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class LogLines:
    """Takes lines at once and writes them from a thread of its own, in order; at most `max_lines` wait.

    A write that fails loses its lines: there is nobody left to tell.
    """

    def __init__(
        self,
        stream: Stream,
        max_lines: int = MAX_LINES,
        on_dropped: Callable[[int], None] = lambda lines: None,  # noqa: ARG005
    ) -> None:
        """on_dropped: told how many lines were dropped, each time."""
        self._stream = stream
        self._max_lines = max_lines
        self._on_dropped = on_dropped
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Never blocks."""
        if len(self._lines) >= self._max_lines:
            self._drop(1)
            return
        self._lines.append(text)
        self._wake.set()

    def flush(self) -> None:
        """Nothing: the thread does."""

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what waits, and no more; waits so long for it. True if all was written."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            if not self._closing:
                time.sleep(GATHER_S)
            self._wake.clear()
            self._write_all()
        self._write_all()

    def _drop(self, lines: int) -> None:
        self._dropped += lines
        self._on_dropped(lines)

    def _write_all(self) -> None:
        count, lost = len(self._lines), self._dropped
        text = "".join(self._lines.popleft() for _ in range(count)) + (_loss(lost) if lost else "")
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the other end is gone, or the stream was closed
            self._drop(count)
        else:
            self._dropped -= lost


def _loss(lines: int) -> str:
    return f'{{"level": "warning", "event": "log lines dropped", "lines": {lines}}}\n'


class Forwarded(logging.Handler):
    """What libraries log by the standard way, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def log_to(stream: Stream, on_dropped: Callable[[int], None]) -> LogLines:
    """From now on each line of the log is one JSON object, in `stream`; libraries' warnings too."""
    lines = LogLines(stream, on_dropped=on_dropped)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(lines),  # type: ignore[arg-type]
    )
    logging.basicConfig(level=logging.WARNING, handlers=[Forwarded()], force=True)
    atexit.register(lines.close)
    return lines
