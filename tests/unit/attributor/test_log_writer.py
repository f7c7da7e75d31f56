"""The log writer: order, a bounded queue that blocks no caller, and a count of the lines that it dropped."""

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import structlog

from attributor.ops.log_writer import LogWriter, Stream, log_to


class Stuck(io.StringIO):
    """A stream without a reader: writes block until `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.released.wait(30)
        return super().write(text)


class Gone(io.StringIO):
    """A stream whose reader closed its end."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def _structlog_as_before() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


class Lines:
    """A writer, and a function that logs plain text to it."""

    def __init__(self, stream: Stream, max_lines: int = 10_000) -> None:
        self.dropped: list[int] = []
        self.writer = LogWriter(stream, max_lines, self.dropped.append)

    def write(self, text: str) -> None:
        self.writer.handler.handle(logging.makeLogRecord({"msg": text}))


def test_lines_arrive_in_order_and_closing_waits_for_them() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for number in range(2_500):
        lines.write(str(number))
    assert lines.writer.close(timeout_s=30)
    assert stream.getvalue().splitlines() == [str(number) for number in range(2_500)]


def test_a_stream_without_a_reader_blocks_no_caller_and_dropped_lines_are_counted() -> None:
    stream = Stuck()
    lines = Lines(stream, max_lines=10)
    lines.write("first")
    assert stream.entered.wait(30)
    for number in range(25):
        lines.write(str(number))
    assert sum(lines.dropped) == 15
    assert not lines.writer.close(timeout_s=0.01)
    stream.released.set()
    assert lines.writer.close(timeout_s=30)
    *written, loss = stream.getvalue().splitlines()
    assert written == ["first", *(str(number) for number in range(10))]
    assert json.loads(loss) == {"level": "warning", "event": "log lines dropped", "lines": 15}


def test_lines_that_cannot_be_written_are_dropped_and_counted() -> None:
    lines = Lines(Gone())
    lines.write("first")
    assert lines.writer.close(timeout_s=30)
    assert sum(lines.dropped) == 1


@pytest.mark.usefixtures("_structlog_as_before")
def test_each_line_is_a_json_object_warnings_of_libraries_included() -> None:
    stream = io.StringIO()
    writer = log_to(stream, lambda _: None)
    structlog.get_logger("attributor").info("posted", generation_id="g\n1")
    logging.getLogger("library").warning("low on %s", "luck")
    structlog.get_logger("attributor").debug("not logged")
    writer.close()
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["generation_id"], ours["level"]) == ("posted", "g\n1", "info")
    assert (theirs["event"], theirs["level"]) == ("low on luck", "warning")
