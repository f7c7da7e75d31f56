"""Tests of the pipeline's bounded queues, of the progress lines, and of partitions of a source."""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import pytest
import rich_click as click

from indexer.cli.add import parse_partition
from indexer.cli.progress import progress
from indexer.job import Partition
from indexer.pipeline import UNREAD, ahead, batched, ordered_map
from indexer.report import Counts


class Source:
    """An endless iterable that counts the items it produced."""

    def __init__(self) -> None:
        self.made = 0

    def __iter__(self) -> Iterator[int]:
        for number in count():
            self.made += 1
            yield number


@pytest.mark.parametrize("window", [1, 3])
def test_a_pool_has_no_more_in_hand_than_its_window(window: int) -> None:
    source = Source()
    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda number: number, source, window)
        for taken in range(10):
            assert next(results) == taken
            assert source.made <= taken + window
        results.close()


@pytest.mark.parametrize("size", [1, 4])
def test_a_slow_reader_holds_its_maker_back(size: int) -> None:
    source, full = Source(), threading.Event()

    def items() -> Generator[int, None, None]:
        for number in source:
            if number == size + 1:
                full.set()
            yield number

    slow = ahead(items, size)
    for taken in range(1, 20):
        assert next(slow) == taken - 1
        assert full.wait(10)
        # `size` items wait in the queue while the producer holds one more.
        assert source.made <= taken + size + 1
    slow.close()


def five_seconds_each(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = (float(second) for second in count(0, 5))
    monkeypatch.setattr("indexer.cli.progress.time", SimpleNamespace(monotonic=lambda: next(moments)))


def test_without_a_terminal_progress_is_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    five_seconds_each(monkeypatch)
    with progress(400) as advance:
        advance(Counts(read=100, points=100))
        advance(Counts(read=200, points=190, opt_outs=4, rejects=6))
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith("indexing 200/400, ")
    assert "4 opted out, 6 rejected" in line
    assert line.endswith(" s left")


def test_where_the_end_is_not_known_none_is_promised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    five_seconds_each(monkeypatch)
    with progress(None) as advance:
        advance(Counts(read=100, points=100))
        advance(Counts(read=200, points=200))
    assert "left" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "partition"), [("0/1", Partition()), ("2/3", Partition(2, 3)), ("10/12", Partition(10, 12))]
)
def test_a_partition_is_parsed(text: str, partition: Partition) -> None:
    context = click.Context(click.Command("add"))
    assert parse_partition(context, click.Option(["--shards"]), text) == partition


@pytest.mark.parametrize("text", ["", "1", "1/1", "3/2", "-1/2", "0/0", "a/b", "1/2/3", "1.5/2"])
def test_what_is_no_partition_is_refused(text: str) -> None:
    context = click.Context(click.Command("add"))
    with pytest.raises(click.BadParameter, match="is no part"):
        parse_partition(context, click.Option(["--shards"]), text)


def test_each_partition_has_files_of_its_own() -> None:
    suffixes = [Partition(index, 3).suffix for index in range(3)]
    assert len({*suffixes, Partition().suffix}) == 4


def test_no_more_is_read_while_what_was_read_is_heavy() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda number: number, source(), 50, lambda number: 10, 30)
        for number in range(100):
            assert next(results) == number
            assert len(taken) - number <= 4 + UNREAD
        results.close()


def test_a_batch_ends_once_it_is_heavy() -> None:
    assert list(batched([1, 1, 5, 1, 1, 1, 1], 4, lambda item: item, 5)) == [[1, 1, 5], [1, 1, 1, 1]]
