"""The log: in order, beside the caller, bounded, and honest about what it lost."""

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import structlog

from attributor.ops.log_writer import LogLines, log_to


class Stuck(io.StringIO):
    """A stream that nobody reads: writes wait until it is `released`."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.released.wait(30)
        return super().write(text)


class Gone(io.StringIO):
    """A stream whose other end was closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def _structlog_as_before() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


def test_lines_arrive_in_order_and_closing_waits_for_them() -> None:
    stream = io.StringIO()
    lines = LogLines(stream)
    for number in range(1_000):
        lines.write(f"{number}\n")
    assert lines.close()
    assert stream.getvalue().split() == [str(number) for number in range(1_000)]


def test_a_stream_that_nobody_reads_holds_up_no_caller_and_what_is_lost_is_counted() -> None:
    stream, lost = Stuck(), list[int]()
    lines = LogLines(stream, max_lines=10, on_dropped=lost.append)
    lines.write("first\n")
    assert stream.entered.wait(30)
    for number in range(25):
        lines.write(f"{number}\n")
    assert sum(lost) == 15
    assert not lines.close(timeout_s=0.01)
    stream.released.set()
    assert lines.close(timeout_s=30)
    *written, loss = stream.getvalue().splitlines()
    assert written == ["first", *(str(number) for number in range(10))]
    assert json.loads(loss) == {"level": "warning", "event": "log lines dropped", "lines": 15}


def test_a_stream_that_is_gone_ends_nothing() -> None:
    lost = list[int]()
    lines = LogLines(Gone(), on_dropped=lost.append)
    lines.write("one\n")
    assert lines.close(timeout_s=30)
    assert sum(lost) == 1


@pytest.mark.usefixtures("_structlog_as_before")
def test_each_line_is_an_object_also_what_libraries_warn_of() -> None:
    stream = io.StringIO()
    lines = log_to(stream, lambda _: None)
    structlog.get_logger("attributor").info("posted", generation_id="g\n1")
    logging.getLogger("library").warning("low on %s", "luck")
    lines.close()
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["generation_id"], ours["level"]) == ("posted", "g\n1", "info")
    assert (theirs["event"], theirs["level"]) == ("low on luck", "warning")
