"""Tests of resuming: an interrupted run resumes, and a finished run begins again."""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gmvaluator.catalogue.records import IndexRun
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import IndexFailed
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.testing.index import MemoryIndex, MemoryStore
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels
from gmvaluator.training_images import TrainingLimits
from indexer.cli.run import index_shards, run_name
from indexer.job import IndexJob
from indexer.opt_outs import OptOutList
from indexer.pipeline import Advance, Indexer
from indexer.report import Counts, LeftOut, LeftOutFile, Report
from indexer.resuming import SourceRun
from indexer.sources.item import Item, Shard, Source, Unreadable
from indexer.sources.opening import open_source
from indexer.target import Target
from indexer.writing import ShardLog

WORK = training_image_id("0" * 64)


class Runs:
    """The catalogue's index runs, in memory."""

    def __init__(self) -> None:
        self.rows: list[IndexRun] = []

    def last_index_run(self, data_set: str, source: str) -> IndexRun | None:
        rows = [row for row in self.rows if (row.data_set, row.source) == (data_set, source)]
        return rows[-1] if rows else None

    def begin_index_run(self, data_set: str, source: str) -> IndexRun:
        last = self.last_index_run(data_set, source)
        if last is None or last.finished:
            last = IndexRun(len(self.rows), data_set, source, 0, {}, False)
            self.rows.append(last)
        return last

    def advance_index_run(
        self,
        run_id: int,
        position: int,
        counts: Mapping[str, int],
        finished: bool = False,
        works: Collection[TrainingImageId] = (),
    ) -> IndexRun:
        self.rows[run_id] = replace(self.rows[run_id], position=position, counts=dict(counts), finished=finished)
        return self.rows[run_id]

    def latest_works(self, data_set: str, source: str) -> list[TrainingImageId]:
        return [WORK]


class Points:
    """An index that holds the work, or has lost it."""

    def __init__(self, holds: bool = True) -> None:
        self._holds = holds

    def existing(self, ids: Sequence[TrainingImageId]) -> Collection[TrainingImageId]:
        return set(ids) if self._holds else set()


def shard(name: str, fingerprint: str = "1") -> Shard:
    def rows(start: int) -> Iterator[Item]:
        return iter([Unreadable(str(number), "x") for number in range(start, 10)])

    return Shard(name, fingerprint, 10, rows)


SOURCE = Source("s", [shard("a"), shard("b")])
TEN = Counts(10, 9, 0, 0, 1)


@pytest.fixture
def left_out(tmp_path: Path) -> LeftOutFile:
    return LeftOutFile(tmp_path / "left-out.jsonl")


def begin(runs: Runs, left_out: LeftOutFile, points: Points | None = None) -> SourceRun:
    return SourceRun.begin(runs, points or Points(), "set", "s", left_out)


def positions(run: SourceRun, source: Source = SOURCE) -> list[tuple[str, int, bool]]:
    return [(shard.name, log.position, log.finished) for shard, log in run.shards(source)]


def test_an_interrupted_run_resumes(left_out: LeftOutFile) -> None:
    runs = Runs()
    (_, first), (_, second) = begin(runs, left_out).shards(SOURCE)
    first.advance(10, TEN, [])
    first.finish()
    second.advance(4, Counts(4, 4), [])
    again = begin(runs, left_out)
    assert positions(again) == [("a", 10, True), ("b", 4, False)]
    report = Report()
    for _, log in again.shards(SOURCE):
        report.add(log.counts)
    assert report.counts == Counts(14, 13, 0, 0, 1)


def test_a_batch_that_leaves_a_gap_is_not_recorded(left_out: LeftOutFile) -> None:
    runs = Runs()
    _, log = next(begin(runs, left_out).shards(SOURCE))
    log.advance(4, Counts(4, 4), [])
    with pytest.raises(IndexFailed, match="rows 7 to 9 of a "):
        log.advance(9, Counts(2, 2), [(8, LeftOut("skipped", "x"))])
    assert (log.position, log.counts.read, left_out.path.read_text()) == (4, 4, "")


def test_a_finished_run_begins_again(left_out: LeftOutFile) -> None:
    runs = Runs()
    run = begin(runs, left_out)
    for _, log in run.shards(SOURCE):
        log.advance(10, TEN, [])
        log.finish()
    run.finish(TEN)
    assert positions(begin(runs, left_out)) == [("a", 0, False), ("b", 0, False)]


def test_a_changed_shard_begins_again(left_out: LeftOutFile) -> None:
    runs = Runs()
    for _, log in begin(runs, left_out).shards(SOURCE):
        log.advance(4, Counts(4, 4), [])
    changed = Source("s", [shard("a", "2"), shard("b")])
    assert positions(begin(runs, left_out), changed) == [("a", 0, False), ("b", 4, False)]


def test_an_index_that_was_emptied_is_filled_again(left_out: LeftOutFile) -> None:
    runs = Runs()
    for _, log in begin(runs, left_out).shards(SOURCE):
        log.advance(10, TEN, [])
        log.finish()
    assert positions(begin(runs, left_out, Points(holds=False))) == [("a", 0, False), ("b", 0, False)]


def test_a_run_into_a_second_collection_of_a_data_set_resumes(tmp_path: Path, left_out: LeftOutFile) -> None:
    """The newest works of the data set are not in that collection yet."""
    (tmp_path / "images").mkdir()
    for number in range(70):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(tmp_path / "images" / f"{number:02}.png")
    (pictures,) = open_source(str(tmp_path / "images")).shards
    with open_catalogue(tmp_path / "data", write=True) as catalogue:
        catalogue.add_data_set("set")
        for collection, stop in (("first", lambda: False), ("second", lambda: True)):
            store = MemoryStore(MemoryIndex(collection))
            store.create(FAKE_IDENTITY)
            run = SourceRun.begin(catalogue, store, "set", collection, left_out)
            ((_, log),) = run.shards(Source("s", [pictures]))
            indexer = Indexer(FakeModels(), store, catalogue, tmp_path / "thumbnails", "set")
            indexer.run(pictures, 0, log, stopping=stop)
        again = SourceRun.begin(catalogue, store, "set", "second", left_out)
        assert positions(again, Source("s", [pictures])) == [(pictures.name, 32, False)]
        store.remove([point.training_image_id for point in store.scan()])
        emptied = SourceRun.begin(catalogue, store, "set", "second", left_out)
        assert positions(emptied, Source("s", [pictures])) == [(pictures.name, 0, False)]


def test_rows_left_out_are_in_the_file_once_each(left_out: LeftOutFile) -> None:
    runs = Runs()
    _, log = next(begin(runs, left_out).shards(SOURCE))
    log.advance(2, Counts(2, 1, 0, 0, 1), [(1, LeftOut("first", "x"))])
    left_out.write("a", [(3, LeftOut("written, and then killed", "x"))])
    with left_out.path.open("ab") as file:
        # Killed within a character: neither a line of JSON nor text.
        file.write('{"shard": "a", "key": "ü'.encode()[:-1])
    _, log = next(begin(runs, left_out).shards(SOURCE))
    log.advance(4, Counts(2, 1, 0, 1, 0), [(3, LeftOut("second", "y", "opt_out"))])
    rows = [json.loads(line) for line in left_out.path.read_text().splitlines()]
    assert [(row["key"], row["position"], row["kind"]) for row in rows] == [
        ("first", 1, "reject"),
        ("second", 3, "opt_out"),
    ]


def test_a_report_lists_the_first_hundred_rows_left_out_and_counts_all() -> None:
    report = Report()
    rows = [LeftOut(str(number), "it is no image") for number in range(250)]
    for start in (0, 125):
        report.add(Counts.of(125, 0, 0, rows[start : start + 125]), rows[start : start + 125])
    plain = report.as_dict()
    assert [row["key"] for row in plain["left_out"]] == [str(number) for number in range(100)]
    assert plain["rejects"] == 250


def test_names_of_runs_are_short_enough_to_be_indexed(tmp_path: Path) -> None:
    runs, deep = Runs(), "folder/" * 500
    shards = [Shard(f"{deep}{number}.tar", "fingerprint", 1, lambda _: iter(())) for number in range(2)]
    for _ in range(2):
        run = SourceRun.begin(runs, Points(True), "art", f"collection {deep}", LeftOutFile(tmp_path / "left.jsonl"))
        assert [shard.name for shard, _ in run.shards(Source("source", shards))] == [shard.name for shard in shards]
    assert len(runs.rows) == 3
    assert max(len(row.source) for row in runs.rows) < 1_000


def test_a_run_that_leaves_out_other_rows_is_not_resumed(tmp_path: Path) -> None:
    plain = IndexJob("pictures", None, "art")
    opted_out = tmp_path / "list.txt"
    opted_out.write_text("cats/007.png\n")
    jobs = [
        plain,
        replace(plain, heed_signals=False),
        replace(plain, limits=TrainingLimits(pixels=1_000)),
        replace(plain, limits=TrainingLimits(size_bytes=1_000)),
        replace(plain, opt_outs=OptOutList.read(opted_out)),
    ]
    target = Target(tmp_path, "", "works")
    names = [run_name(job, target, FAKE_IDENTITY, SOURCE) for job in jobs]
    assert len(set(names)) == len(jobs)
    # Strictness and groups change what is printed and what follows, not which rows are indexed.
    assert run_name(replace(plain, strict=True, group=False), target, FAKE_IDENTITY, SOURCE) == names[0]


class CountingReader:
    """A reader that indexes every row of a shard, and stops in the middle of the shard `stops_in`."""

    def __init__(self, stops_in: str = "") -> None:
        self._stops_in = stops_in

    def run(self, shard: Shard, start: int, log: ShardLog, advance: Advance, stopping: Callable[[], bool]) -> bool:
        end = 5 if shard.name == self._stops_in else 10
        counts = Counts(end - start, end - start)
        log.advance(end, counts, [])
        advance(counts, [])
        return end == 10


def test_image_files_next_to_shards_are_counted_apart(left_out: LeftOutFile) -> None:
    loose = replace(shard("files 0"), loose=True)
    source, runs = Source("s", [shard("0.tar"), shard("1.tar"), loose]), Runs()
    report, read_all = index_shards(CountingReader("files 0"), begin(runs, left_out), source, threading.Event())
    assert not read_all
    assert {form: counts.read for form, counts in report.by_form().items()} == {"shards": 20, "image_files": 5}
    report, read_all = index_shards(CountingReader(), begin(runs, left_out), source, threading.Event())
    assert read_all
    assert {form: counts.read for form, counts in report.by_form().items()} == {"shards": 20, "image_files": 10}
    assert report.counts.read == 30
    assert report.as_dict()["by_form"]["image_files"] == Counts(10, 10).as_dict()
    for one_form in (Source("s", [shard("0.tar")]), Source("s", [shard("files 0")])):
        report, _ = index_shards(CountingReader(), begin(Runs(), left_out), one_form, threading.Event())
        assert report.by_form() == {}
