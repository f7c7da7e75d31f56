"""One collection of the engine, in this process: what is written during a build, step by step."""

import errno
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import qdrant_edge as edge

from gmvaluator.index.engine import collection as module
from gmvaluator.index.engine.build import Builder
from gmvaluator.index.engine.collection import BacklogFull, Collection
from gmvaluator.index.engine.generations import Description, Generations
from gmvaluator.index.engine.settings import CollectionSettings, HnswSettings, VectorSettings
from gmvaluator.ports import Point
from gmvaluator.testing.index import example_points

RECALL = VectorSettings(64, "cosine", True, HnswSettings(16, 128, 10), "pq-x16", True)
SETTINGS = CollectionSettings({"recall": RECALL}, 1, None, 1)
SIZE_BYTES = 1000


class PausedBuilder(Builder):
    """Builds when told to."""

    started: threading.Event
    go_on: threading.Event

    def run(self) -> None:
        self.started.set()
        assert self.go_on.wait(60)
        super().run()


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    monkeypatch.setattr(PausedBuilder, "started", threading.Event(), raising=False)
    monkeypatch.setattr(PausedBuilder, "go_on", threading.Event(), raising=False)
    monkeypatch.setattr(module, "Builder", PausedBuilder)
    Collection.make(tmp_path, Description(SETTINGS))
    with closing(Collection(tmp_path)) as opened:
        yield opened
        PausedBuilder.go_on.set()


def upsert(points: list[Point]) -> edge.UpdateOperation:
    return edge.UpdateOperation.upsert_points(
        [edge.Point(point.training_image_id, {"recall": point.recall.tolist()}, {}) for point in points]
    )


def wait_for_build(collection: Collection) -> None:
    PausedBuilder.go_on.set()
    wait_until_built(collection)


def wait_until_built(collection: Collection) -> None:
    ended = threading.Event()
    while collection.state().building:
        ended.wait(0.02)


def test_writes_during_a_build_are_replayed_in_order(collection: Collection) -> None:
    points = example_points(60)
    collection.write(upsert(points[:40]), SIZE_BYTES)
    collection.start_build()
    assert PausedBuilder.started.wait(60)
    collection.write(upsert(points[40:]), SIZE_BYTES)
    collection.write(edge.UpdateOperation.delete_points([points[0].training_image_id]), SIZE_BYTES)
    collection.write(edge.UpdateOperation.delete_points([points[50].training_image_id]), SIZE_BYTES)
    assert collection.state().points == 58
    wait_for_build(collection)
    state = collection.state()
    assert (state.points, state.indexed_points, state.waiting, state.build_error) == (58, 58, False, None)


def test_what_cannot_be_remembered_is_refused_and_not_written(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BACKLOG_BYTES", 3 * SIZE_BYTES)
    points = example_points(60)
    collection.write(upsert(points[:40]), SIZE_BYTES)
    collection.start_build()
    assert PausedBuilder.started.wait(60)
    for start in (40, 41, 42):
        collection.write(upsert(points[start : start + 1]), SIZE_BYTES)
    with pytest.raises(BacklogFull):
        collection.write(upsert(points[43:44]), SIZE_BYTES)
    assert collection.state().points == 43
    wait_for_build(collection)
    collection.write(upsert(points[43:44]), SIZE_BYTES)
    assert collection.state().points == 44


def test_a_write_that_fails_is_not_replayed(collection: Collection) -> None:
    collection.write(upsert(example_points(40)), SIZE_BYTES)
    collection.start_build()
    assert PausedBuilder.started.wait(60)
    wrong = edge.UpdateOperation.upsert_points([edge.Point(1, {"recall": [1.0]}, {})])
    with pytest.raises(Exception, match="dimension"):
        collection.write(wrong, SIZE_BYTES)
    wait_for_build(collection)
    state = collection.state()
    assert (state.points, state.indexed_points, state.build_error) == (40, 40, None)


def test_closing_stops_a_build_and_removes_it(collection: Collection, tmp_path: Path) -> None:
    collection.write(upsert(example_points(40)), SIZE_BYTES)
    collection.start_build()
    assert PausedBuilder.started.wait(60)
    PausedBuilder.go_on.set()
    collection.close()
    assert [path.name for path in tmp_path.glob("generation-*")] in (["generation-1"], ["generation-2"])
    with closing(Collection(tmp_path)) as again:
        assert again.state().points == 40


def test_a_rebuild_that_cannot_be_noted_serves_and_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full once the new generation is the one in use."""
    points = example_points(60)
    Collection.make(tmp_path, Description(SETTINGS))
    with closing(Collection(tmp_path)) as collection:
        collection.write(upsert(points[:40]), SIZE_BYTES)
        collection.request_rebuild({"recall": replace(RECALL, on_disk=False)}, {"noted": True})
        with monkeypatch.context() as patched:
            patched.setattr(Generations, "describe", full)
            collection.start_build()
            wait_until_built(collection)
        assert "No space left" in str(collection.state().build_error)
        collection.write(upsert(points[40:]), SIZE_BYTES)
        assert (collection.state().points, collection.metadata) == (60, {"noted": True})
    assert [path.name for path in tmp_path.glob("generation-*")] == ["generation-2"]
    with closing(Collection(tmp_path)) as again:
        assert (again.state().points, again.metadata) == (60, {"noted": True})
        assert not again.settings.vectors["recall"].on_disk


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
