"""What survives when the engine, or a build, is killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gmvaluator.errors import IndexFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.launcher import Contact
from gmvaluator.index.opening import open_store
from gmvaluator.index.store import QdrantStore
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points

KILLS = 5
LONG_S = 60


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def engine_pid(folder: Path) -> int:
    contact = Contact.read(folder)
    assert contact is not None
    return contact.pid


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QdrantStore]:
    with closing(open_store(tmp_path)) as opened:
        opened.create(EXAMPLE_IDENTITY)
        yield opened


def test_no_acknowledged_point_is_lost_when_the_engine_is_killed(tmp_path: Path, store: QdrantStore) -> None:
    acknowledged: list[TrainingImageId] = []
    ended = threading.Event()

    def write() -> None:
        seed = 0
        while not ended.is_set():
            points = example_points(40, seed=seed)
            store.upsert(points)
            acknowledged.extend(point.training_image_id for point in points)
            seed += 1

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(KILLS):
        seen = len(acknowledged)
        wait_until(lambda seen=seen: len(acknowledged) > seen + 100)  # type: ignore[misc]
        os.kill(engine_pid(tmp_path), signal.SIGKILL)
    seen = len(acknowledged)
    wait_until(lambda: len(acknowledged) > seen)
    ended.set()
    writer.join()
    os.kill(engine_pid(tmp_path), signal.SIGKILL)
    assert store.existing(acknowledged) == set(acknowledged)
    assert store.info().points == len(set(acknowledged))
    store.build()
    assert store.info().indexed_points == len(set(acknowledged))


def start_build(store: QdrantStore) -> threading.Thread:
    """Build in a thread whose outcome nobody asks for."""

    def build() -> None:
        try:
            store.build()
        except IndexFailed:
            return

    thread = threading.Thread(target=build)
    thread.start()
    return thread


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def build_processes(folder: Path) -> list[int]:
    return children(engine_pid(folder))


def test_a_crash_during_a_build_leaves_the_index_as_it_was(tmp_path: Path, store: QdrantStore) -> None:
    points = example_points(1500)
    store.upsert(points)
    building = start_build(store)
    wait_until(lambda: bool(build_processes(tmp_path)))
    orphans, crashed = build_processes(tmp_path), engine_pid(tmp_path)
    os.kill(crashed, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{orphan}").exists() for orphan in orphans))
    building.join()
    assert engine_pid(tmp_path) != crashed
    assert store.existing([point.training_image_id for point in points]) == {p.training_image_id for p in points}
    store.build()
    assert store.info().indexed_points == 1500
    assert len(list((tmp_path / "works").glob("generation-*"))) == 1


def test_a_build_that_breaks_is_reported_and_can_be_repeated(tmp_path: Path, store: QdrantStore) -> None:
    store.upsert(example_points(1500))
    outcome: list[BaseException] = []

    def build() -> None:
        try:
            store.build()
        except IndexFailed as error:
            outcome.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    wait_until(lambda: bool(build_processes(tmp_path)))
    for process in build_processes(tmp_path):
        os.kill(process, signal.SIGKILL)
    thread.join()
    assert "status -9" in str(outcome[0])
    assert len(list((tmp_path / "works").glob("generation-*"))) == 1
    store.build()
    assert store.info().indexed_points == 1500


def test_leftovers_are_removed_at_the_next_start(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(10))
        os.kill(engine_pid(tmp_path), signal.SIGKILL)
        for leftover in (tmp_path / ".making-x", tmp_path / ".leaving-x", tmp_path / "works" / "generation-2"):
            leftover.mkdir()
            (leftover / "file").write_text("x")
        assert store.info().points == 10
        assert not (tmp_path / ".making-x").exists()
        assert not (tmp_path / ".leaving-x").exists()
        assert [path.name for path in (tmp_path / "works").glob("generation-*")] == ["generation-1"]
