"""Tests of the Ray driver: results are written in each shard's order. Ray itself is not needed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.catalogue.records import NewWork
from gmvaluator.errors import Conflict, PreconditionFailed, Unavailable
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.ports import Float32Array
from gmvaluator.testing.index import EXAMPLE_IDENTITY, MemoryIndex, MemoryStore, example_features
from indexer.job import IndexJob, ModelRuntime
from indexer.ray.engine import (
    RANGE_ROWS,
    OrderedWriter,
    UnfinishedShard,
    check_index_shared,
    row_ranges,
    start_ray,
)
from indexer.ray.worker import EmbeddedWork, RangeBatch, RowRange, Worker, WorkerJob
from indexer.report import OPT_OUT, Counts, LeftOut, Report
from indexer.sources.item import Item, Shard
from indexer.sources.opening import open_source
from indexer.target import Target
from indexer.writing import Writer
from tests.support.indexing import RecordingCatalogue, RecordingLog

BATCH = 3
FEATURES = example_features(2).to_text()


def unit(*shape: int) -> Float32Array:
    return np.full(shape, shape[-1] ** -0.5, dtype=np.float32)


def row(number: int) -> EmbeddedWork | LeftOut:
    """Return row `number`: every fifth is an opt-out, every seventh a duplicate of the first."""
    if number % 5 == 4:
        return LeftOut(str(number), "its source says: noai", OPT_OUT)
    sha256 = sha256_hex(b"0" if number % 7 == 6 else str(number).encode())
    work = NewWork(training_image_id(sha256), sha256, 4, 4, "set", f"key {number}", f"uri {number}")
    views = (EXAMPLE_IDENTITY.perceptual_views, EXAMPLE_IDENTITY.perceptual_dim)
    return EmbeddedWork(work, b"webp", unit(EXAMPLE_IDENTITY.recall_dim), unit(*views), local_features=FEATURES)


def items(start: int) -> Iterator[Item]:
    raise AssertionError(f"the writer reads nothing, not from {start}")


def test_a_worker_that_sees_another_source_takes_no_part(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    digest = open_source(str(tmp_path)).digest
    index_job, target = IndexJob(str(tmp_path), None, "set"), Target(tmp_path, "", "works")
    job = WorkerJob(index_job, target, ModelRuntime(ProfileChoice("stub"), "cpu", None), None, digest)
    (tmp_path / "b.png").write_bytes(b"y")
    with pytest.raises(Conflict, match="changed while it was being indexed"):
        Worker(job)


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3)])
def test_a_cluster_that_does_not_start_at_once_is_started_again(failures: int, starts: int) -> None:
    ray = SlowRay(failures)
    start_ray(ray, address=None)
    assert ray.starts == starts


def test_a_cluster_that_never_starts_is_said_so() -> None:
    with pytest.raises(Unavailable, match="timed out"):
        start_ray(SlowRay(9), address=None)


class SlowRay:
    """A `ray` module whose `init` fails `failures` times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.starts = 0

    def init(self, address: str | None) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise Exception(f"{address} timed out during startup")  # noqa: TRY002 - as ray does

    def shutdown(self) -> None:
        """Nothing is left."""


def results(part: RowRange, rows: int) -> list[RangeBatch]:
    stop = rows if part.stop is None else part.stop
    batches = [
        RangeBatch(part, start, tuple(row(number) for number in range(start, min(start + BATCH, stop))), False)
        for start in range(part.start, stop, BATCH)
    ]
    return [*batches, RangeBatch(part, stop, (), True)]


@pytest.fixture(scope="module")
def thumbnails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("thumbnails")


@given(data=st.data(), rows=st.integers(0, 40), start=st.integers(0, 10))
def test_any_order_of_results_is_written_in_order(thumbnails: Path, data: st.DataObject, rows: int, start: int) -> None:
    store = MemoryStore(MemoryIndex())
    store.create(EXAMPLE_IDENTITY)
    catalogue, log, report, finished = RecordingCatalogue(), RecordingLog(), Report(), []
    position = min(start, rows)
    part = RowRange(0, position, None)
    shard = UnfinishedShard(0, Shard("a", "1", rows, items), position, log, lambda: finished.append(True))
    ordered = OrderedWriter.for_shards([shard], Writer(store, catalogue, thumbnails, "set"), report.add)
    for batch in data.draw(st.permutations(results(part, rows))):
        ordered.add(batch)
    assert finished == [True]
    assert log.position == (rows if rows > position else 0)
    assert report.counts.read == rows - position
    assert report.counts.reconciles
    assert report.counts.opt_outs == sum(number % 5 == 4 for number in range(position, rows))
    assert report.counts.points == store.info().points == len({work.sha256 for work in catalogue.works})


def test_removed_works_are_counted_so(thumbnails: Path) -> None:
    store = MemoryStore(MemoryIndex())
    store.create(EXAMPLE_IDENTITY)
    catalogue = RecordingCatalogue({sha256_hex(b"1")}, {"key 2"})
    report = Report()
    shard = UnfinishedShard(0, Shard("a", "1", 4, items), 0, RecordingLog(), lambda: None)
    ordered = OrderedWriter.for_shards([shard], Writer(store, catalogue, thumbnails, "set"), report.add)
    for batch in results(RowRange(0, 0, None), 4):
        ordered.add(batch)
    assert report.counts == Counts(4, 2, 0, 0, 0, 2)


@given(rows=st.integers(0, 5 * RANGE_ROWS), position=st.integers(0, 5 * RANGE_ROWS))
def test_the_parts_of_a_shard_are_its_rows_once(rows: int, position: int) -> None:
    shard = UnfinishedShard(3, Shard("a", "1", rows, items), min(position, rows), RecordingLog(), lambda: None)
    parts = list(row_ranges(shard))
    assert parts[0].start == shard.position
    assert parts[-1].stop is None
    assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert all(part.start < rows for part in parts[1:])


def test_a_shard_of_unknown_rows_is_one_part() -> None:
    shard = UnfinishedShard(3, Shard("a", "1", None, items), 7, RecordingLog(), lambda: None)
    assert list(row_ranges(shard)) == [RowRange(3, 7, None)]


def test_an_embedded_index_and_a_cluster_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    check_index_shared(embedded=False)
    with pytest.raises(PreconditionFailed, match="--index URL"):
        check_index_shared(embedded=True)
