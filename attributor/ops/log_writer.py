"""JSON log lines, written by a thread so that a slow or absent reader of stderr blocks no call.

Built on the standard library's `QueueHandler` and `QueueListener`.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any, Protocol

import structlog

MAX_LINES = 10_000
"""Maximum number of lines that wait to be written; further lines are dropped and counted."""

GATHER_S = 0.02
"""Time for which lines gather before they are written together."""

BATCH_LINES = 1_000
"""Maximum number of lines that are written together."""

CLOSE_S = 2.0
"""Time that the end of the process may wait for lines to be written."""

_LOGGER = "gmvaluator.log_lines"


class Stream(Protocol):
    """Destination of the lines, such as `sys.stderr`."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class LogWriter:
    """A writer of the lines that its `handler` receives: they are queued, and written in order from a thread.

    At most `max_lines` wait. A failed write loses its lines: there is nowhere else to report it.
    """

    def __init__(
        self,
        stream: Stream,
        max_lines: int = MAX_LINES,
        on_dropped: Callable[[int], None] = lambda lines: None,  # noqa: ARG005
    ) -> None:
        """on_dropped: called with the number of lines each time some are dropped."""
        records: SimpleQueue[Any] = SimpleQueue()
        losses = _Losses(on_dropped)
        self.handler: logging.Handler = _BoundedHandler(records, max_lines, losses)
        self._listener = _BatchListener(records, stream, losses)
        self._listener.start()

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write the lines that wait, then stop; return False if that took longer than `timeout_s`."""
        return self._listener.close(timeout_s)


class _Losses:
    """A counter of dropped lines; any thread may call it."""

    def __init__(self, on_dropped: Callable[[int], None]) -> None:
        self._on_dropped = on_dropped
        self._lock = threading.Lock()
        self.unreported = 0

    def add(self, lines: int) -> None:
        with self._lock:
            self.unreported += lines
        self._on_dropped(lines)

    def mark_reported(self, lines: int) -> None:
        with self._lock:
            self.unreported -= lines


class _BoundedHandler(QueueHandler):
    """A logging handler that puts records into a queue, and drops them while it is full."""

    def __init__(self, records: SimpleQueue[Any], max_lines: int, losses: _Losses) -> None:
        super().__init__(records)
        self._records = records
        self._max_lines = max_lines
        self._losses = losses

    def enqueue(self, record: logging.LogRecord) -> None:
        # The queue itself has no bound, so that the listener's sentinel fits into a full one.
        if self._records.qsize() >= self._max_lines:
            self._losses.add(1)
        else:
            self._records.put_nowait(record)


class _BatchListener(QueueListener):
    """A listener that writes a queue's records to a stream, all that arrive within `GATHER_S` in one write.

    Separate writes would wake this thread for every record, and it would compete with the event loop for the
    interpreter.
    """

    def __init__(self, records: SimpleQueue[Any], stream: Stream, losses: _Losses) -> None:
        super().__init__(records)
        self._records = records
        self._stream = stream
        self._losses = losses
        self._batch: list[str] = []

    def dequeue(self, block: bool) -> Any:
        if self._records.empty():
            self._write_batch()
            time.sleep(GATHER_S)
        record = super().dequeue(block)
        if not isinstance(record, logging.LogRecord):
            # The sentinel. `close` waits for this thread with a timeout, so the last batch has to be written here.
            self._write_batch()
        return record

    def handle(self, record: logging.LogRecord) -> None:
        self._batch.append(record.getMessage() + "\n")
        if len(self._batch) >= BATCH_LINES:
            self._write_batch()

    def close(self, timeout_s: float) -> bool:
        self.enqueue_sentinel()
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _write_batch(self) -> None:
        lines, dropped = self._batch, self._losses.unreported
        self._batch = []
        text = "".join(lines) + (_dropped_line(dropped) if dropped else "")
        if not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, or the stream was closed
            self._losses.add(len(lines))
        else:
            self._losses.mark_reported(dropped)


def _dropped_line(lines: int) -> str:
    return f'{{"level": "warning", "event": "log lines dropped", "lines": {lines}}}\n'


class _LibraryHandler(logging.Handler):
    """A logging handler that passes records of libraries, which use the standard `logging`, on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def log_to(stream: Stream, on_dropped: Callable[[int], None]) -> LogWriter:
    """Write each log line to `stream` as one JSON object from now on, warnings of libraries included.

    The process writes the lines that wait before it exits, for `CLOSE_S` at most.
    """
    writer = LogWriter(stream, on_dropped=on_dropped)
    lines = logging.getLogger(_LOGGER)
    lines.handlers = [writer.handler]
    lines.setLevel(logging.INFO)
    # A line is rendered already: the root's handler would render it again.
    lines.propagate = False
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()], force=True)
    atexit.register(writer.close)
    return writer
