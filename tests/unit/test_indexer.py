"""The indexing pipeline: every file is counted once, and nothing bad stops the run."""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gmvaluator.catalogue.records import NewWork
from gmvaluator.errors import ModelFailed
from gmvaluator.ports import Float32Array
from gmvaluator.testing.index import MemoryIndex, MemorySearch, MemoryStore
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels
from indexer.pipeline import Indexer, Report, batched, ordered_map
from indexer.source import open_source


class Recorder:
    """A catalogue that only remembers."""

    def __init__(self, buried: Collection[str] = ()) -> None:
        self.works: list[NewWork] = []
        self._buried = set(buried)

    def tombstoned(self, sha256s: Collection[str]) -> set[str]:
        return self._buried & set(sha256s)

    def record(self, batch: Sequence[NewWork]) -> None:
        self.works.extend(batch)


def picture(folder: Path, name: str, colour: int) -> Path:
    path = folder / name
    Image.new("RGB", (16, 12), (colour, 255 - colour, 128)).save(path)
    return path


def run(folder: Path, store: MemoryStore, recorder: Recorder, models: FakeModels | None = None) -> Report:
    indexer = Indexer(models or FakeModels(), store, recorder, folder.parent / "thumbnails", "set")
    return indexer.run(open_source(folder), lambda report: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def store() -> MemoryStore:
    index = MemoryStore(MemoryIndex())
    index.create(FAKE_IDENTITY)
    return index


def test_every_file_is_a_point_a_duplicate_or_a_reject(folder: Path, store: MemoryStore) -> None:
    for number in range(40):
        picture(folder, f"{number:02}.png", number)
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:40])
    (folder / "empty.png").write_bytes(b"")
    recorder = Recorder()
    report = run(folder, store, recorder)
    assert (report.read, report.points, report.duplicates, len(report.rejects)) == (44, 40, 1, 3)
    assert report.reconciles
    assert {reject.key for reject in report.rejects} == {"notes.txt", "cut.png", "empty.png"}
    assert all(reject.reason for reject in report.rejects)
    assert store.info().points == 40
    assert {work.key for work in recorder.works} >= {"00.png", "copy.png"}


def test_a_second_run_adds_nothing(folder: Path, store: MemoryStore) -> None:
    for number in range(5):
        picture(folder, f"{number}.png", number)
    run(folder, store, Recorder())
    report = run(folder, store, Recorder())
    assert (report.read, report.points, report.duplicates) == (5, 0, 5)
    assert store.info().points == 5


def test_a_work_of_a_second_data_set_is_one_point_found_under_both(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    run(folder, store, Recorder())
    recorder = Recorder()
    indexer = Indexer(FakeModels(), store, recorder, folder.parent / "thumbnails", "second")
    indexer.run(open_source(folder), lambda report: None)
    (point,) = store.scan()
    assert point.payload["data_set"] == ["set", "second"]
    assert [work.data_set for work in recorder.works] == ["second"]


def test_a_file_that_is_not_what_the_manifest_says_is_rejected(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    (folder / "manifest.csv").write_text(f"file_name,sha256\na.png,{'0' * 64}\n")
    report = run(folder, store, Recorder())
    assert "SHA-256" in report.rejects[0].reason


async def test_a_cut_is_as_near_as_the_view_that_it_shows(folder: Path) -> None:
    index = MemoryIndex()
    MemoryStore(index).create(FAKE_IDENTITY)
    image = Image.new("RGB", (16, 16), "white")
    image.paste("teal", (0, 0, 8, 8))
    image.save(folder / "a.png")
    run(folder, MemoryStore(index), Recorder())
    models = FakeModels()
    cut = models.embed([models.prepare(Image.new("RGB", (16, 16), "teal"))])
    (near,) = await MemorySearch(index).rerank(cut.perceptual[0], list(index.points), 5)
    assert near.perceptual_distance == pytest.approx(0, abs=1e-6)


def test_removed_works_stay_out(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    picture(folder, "b.png", 2)
    first = Recorder()
    run(folder, store, first)
    buried = next(work.sha256 for work in first.works if work.key == "a.png")
    fresh = MemoryStore(MemoryIndex())
    fresh.create(FAKE_IDENTITY)
    report = run(folder, fresh, Recorder({buried}))
    assert (report.points, len(report.rejects)) == (1, 1)
    assert report.reconciles


def test_an_image_the_model_fails_on_is_rejected_with_its_copies(folder: Path, store: MemoryStore) -> None:
    def refuse_white(inputs: Float32Array) -> None:
        if (inputs == 1).all(axis=(1, 2, 3)).any():
            raise ModelFailed("white")

    for number in range(5):
        picture(folder, f"{number}.png", number)
    for name in ("white.png", "white-copy.png"):
        Image.new("RGB", (16, 12), "white").save(folder / name)
    report = run(folder, store, Recorder(), FakeModels(on_batch=refuse_white))
    assert (report.points, report.duplicates, len(report.rejects)) == (5, 0, 2)
    assert report.reconciles


def test_thumbnails_are_kept_of_every_point(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    run(folder, store, Recorder())
    (thumbnail,) = (folder.parent / "thumbnails").rglob("*.webp")
    with Image.open(io.BytesIO(thumbnail.read_bytes())) as image:
        assert image.size == (16, 12)


def test_a_run_that_is_stopped_stops_between_batches(folder: Path, store: MemoryStore) -> None:
    for number in range(100):
        picture(folder, f"{number:03}.png", number)
    indexer = Indexer(FakeModels(), store, Recorder(), folder.parent / "thumbnails", "set")
    report = indexer.run(open_source(folder), lambda report: None, stopping=lambda: True)
    assert (report.read, report.points) == (32, 32)
    assert report.reconciles


def test_points_carry_unit_vectors(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    run(folder, store, Recorder())
    (point,) = store.scan(with_vectors=True)
    assert np.linalg.norm(point.recall) == pytest.approx(1, abs=1e-5)
    assert point.payload["data_set"] == ["set"]


@given(st.lists(st.integers(), max_size=100), st.integers(1, 20))
def test_a_bounded_map_keeps_order(values: list[int], window: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        assert list(ordered_map(pool, lambda value: value + 1, values, window)) == [value + 1 for value in values]


@given(st.lists(st.integers(), max_size=100), st.integers(1, 20))
def test_batches_hold_everything_in_order(values: list[int], size: int) -> None:
    batches = list(batched(values, size))
    assert [value for batch in batches for value in batch] == values
    assert all(len(batch) == size for batch in batches[:-1])
