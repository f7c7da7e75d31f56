"""Tests of the indexing pipeline: every file is counted once, and no bad file stops the run."""

import io
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gmvaluator.errors import IndexUnavailable, ModelFailed
from gmvaluator.ids import sha256_hex
from gmvaluator.index.schema import KEY_LOCAL_FEATURES
from gmvaluator.ports import Float32Array, Point, Prepared
from gmvaluator.profile import SMALLEST_SIDE_PX
from gmvaluator.testing.index import MemoryIndex, MemorySearch, MemoryStore, example_features
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels
from indexer.opt_outs import OptOutList
from indexer.pipeline import Indexer, ahead, batched, ordered_map
from indexer.report import Counts, Report
from indexer.sources.item import Shard, Source, SourceItem
from indexer.sources.opening import open_source
from tests.support.indexing import Killed, RecordingCatalogue, RecordingLog


def picture(folder: Path, name: str, colour: int) -> Path:
    path = folder / name
    Image.new("RGB", (16, 12), (colour, 255 - colour, 128)).save(path)
    return path


def run(indexer: Indexer, source: Source, stopping: Callable[[], bool] = lambda: False) -> Report:
    report = Report()
    for shard in source.shards:
        indexer.run(shard, 0, RecordingLog(), report.add, stopping)
    return report


def index_folder(
    folder: Path, store: MemoryStore, catalogue: RecordingCatalogue, models: FakeModels | None = None, **settings: Any
) -> Report:
    indexer = Indexer(models or FakeModels(), store, catalogue, folder.parent / "thumbnails", "set", **settings)
    return run(indexer, open_source(str(folder)))


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
    catalogue = RecordingCatalogue()
    report = index_folder(folder, store, catalogue)
    assert report.counts == Counts(44, 40, 1, 0, 3)
    assert report.counts.reconciles
    assert {row.key for row in report.left_out} == {"notes.txt", "cut.png", "empty.png"}
    assert all(row.reason for row in report.left_out)
    assert store.info().points == 40
    assert {work.key for work in catalogue.works} >= {"00.png", "copy.png"}


def test_a_second_run_adds_nothing(folder: Path, store: MemoryStore) -> None:
    for number in range(5):
        picture(folder, f"{number}.png", number)
    index_folder(folder, store, RecordingCatalogue())
    report = index_folder(folder, store, RecordingCatalogue())
    assert report.counts == Counts(5, 0, 5, 0, 0)
    assert store.info().points == 5


def test_a_work_of_a_second_data_set_is_one_point_found_under_both(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    index_folder(folder, store, RecordingCatalogue())
    catalogue = RecordingCatalogue()
    indexer = Indexer(FakeModels(), store, catalogue, folder.parent / "thumbnails", "second")
    run(indexer, open_source(str(folder)))
    (point,) = store.scan()
    assert point.payload["data_set"] == ["set", "second"]
    assert [work.data_set for work in catalogue.works] == ["second"]


def test_a_file_that_is_not_what_the_manifest_says_is_rejected(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    (folder / "manifest.csv").write_text(f"file_name,sha256\na.png,{'0' * 64}\n")
    report = index_folder(folder, store, RecordingCatalogue())
    assert "SHA-256" in report.left_out[0].reason


async def test_a_cut_is_as_near_as_the_view_that_it_shows(folder: Path) -> None:
    index = MemoryIndex()
    MemoryStore(index).create(FAKE_IDENTITY)
    image = Image.new("RGB", (16, 16), "white")
    image.paste("teal", (0, 0, 8, 8))
    image.save(folder / "a.png")
    index_folder(folder, MemoryStore(index), RecordingCatalogue())
    models = FakeModels()
    cut = models.embed([models.prepare(Image.new("RGB", (16, 16), "teal"))])
    (near,) = await MemorySearch(index).rerank(cut.perceptual[0], list(index.points), 5)
    assert near.perceptual_distance == pytest.approx(0, abs=1e-6)


def test_removed_works_stay_out(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    picture(folder, "b.png", 2)
    first = RecordingCatalogue()
    index_folder(folder, store, first)
    removed = next(work.sha256 for work in first.works if work.key == "a.png")
    fresh = MemoryStore(MemoryIndex())
    fresh.create(FAKE_IDENTITY)
    report = index_folder(folder, fresh, RecordingCatalogue({removed}))
    assert report.counts == Counts(2, 1, 0, 0, 0, 1)
    assert [(row.key, row.kind) for row in report.left_out] == [("a.png", "removed")]


def test_another_image_under_a_removed_key_stays_out(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    picture(folder, "b.png", 2)
    report = index_folder(folder, store, RecordingCatalogue(removed_keys={"b.png"}))
    assert report.counts == Counts(2, 1, 0, 0, 0, 1)
    assert "another key" in report.left_out[0].reason


def test_new_works_of_an_erased_owner_stay_out(folder: Path, store: MemoryStore) -> None:
    """Those that are known stay, and so does what another owner has."""
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        picture(folder, name, number)
    (folder / "manifest.csv").write_text("file_name,owner_id\na.png,ada\n")
    catalogue = RecordingCatalogue()
    index_folder(folder, store, catalogue)
    catalogue.erased.add("ada")
    (folder / "manifest.csv").write_text("file_name,owner_id\na.png,ada\nb.png,ada\nc.png,ben\n")
    report = index_folder(folder, store, catalogue)
    assert report.counts == Counts(3, 1, 1, 0, 0, 1)
    (row,) = report.left_out
    assert (row.key, row.kind) == ("b.png", "removed")
    assert "owner was erased" in row.reason
    assert "ada" not in row.reason


def test_a_work_that_is_removed_while_in_flight_is_not_indexed(folder: Path, store: MemoryStore) -> None:
    """Its tombstone is written after the image is read and before the work is recorded."""
    picture(folder, "a.png", 1)
    (folder / "copy.png").write_bytes(picture(folder, "b.png", 2).read_bytes())
    catalogue = RecordingCatalogue()
    catalogue.removed_late = {sha256_hex((folder / "b.png").read_bytes())}
    report = index_folder(folder, store, catalogue)
    assert report.counts == Counts(3, 1, 0, 0, 0, 2)
    assert [point.payload["key"] for point in store.scan()] == ["a.png"]
    assert len(list((folder.parent / "thumbnails").rglob("*.webp"))) == 1


def test_an_image_the_model_fails_on_is_rejected_with_its_copies(folder: Path, store: MemoryStore) -> None:
    def refuse_white(inputs: Float32Array) -> None:
        if (inputs == 1).all(axis=(1, 2, 3)).any():
            raise ModelFailed("white")

    for number in range(5):
        picture(folder, f"{number}.png", number)
    for name in ("white.png", "white-copy.png"):
        Image.new("RGB", (16, 12), "white").save(folder / name)
    report = index_folder(folder, store, RecordingCatalogue(), FakeModels(on_batch=refuse_white))
    assert report.counts == Counts(7, 5, 0, 0, 2)


def test_copies_of_an_image_that_cannot_be_decoded_are_rejected_as_well(folder: Path, store: MemoryStore) -> None:
    """Their size can be read, so that only decoding shows the damage."""
    picture(folder, "a.png", 1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    for name in ("b.jpg", "c.jpg"):
        (folder / name).write_bytes(buffer.getvalue()[:2_000])
    catalogue = RecordingCatalogue()
    report = index_folder(folder, store, catalogue)
    assert report.counts == Counts(3, 1, 0, 0, 2)
    assert [row.key for row in report.left_out] == ["b.jpg", "c.jpg"]
    assert [work.key for work in catalogue.works] == ["a.png"]


def test_a_copy_is_judged_by_its_own_row(folder: Path, store: MemoryStore) -> None:
    """The first row has too long a field; the image itself is good."""
    picture(folder, "a.png", 1)
    rows = [f"one,a.png,{';'.join(map(str, range(1_500)))}", "two,a.png,x", "three,a.png,y"]
    (folder / "manifest.csv").write_text("\n".join(["key,file_name,keywords", *rows]) + "\n")
    catalogue = RecordingCatalogue()
    report = index_folder(folder, store, catalogue)
    assert report.counts == Counts(3, 1, 1, 0, 1)
    assert [work.key for work in catalogue.works] == ["two", "three"]


def test_thumbnails_are_kept_of_every_point(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    index_folder(folder, store, RecordingCatalogue())
    (thumbnail,) = (folder.parent / "thumbnails").rglob("*.webp")
    with Image.open(io.BytesIO(thumbnail.read_bytes())) as image:
        assert image.size == (16, 12)


def test_a_run_that_is_stopped_stops_between_batches(folder: Path, store: MemoryStore) -> None:
    for number in range(100):
        picture(folder, f"{number:03}.png", number)
    indexer = Indexer(FakeModels(), store, RecordingCatalogue(), folder.parent / "thumbnails", "set")
    report = run(indexer, open_source(str(folder)), stopping=lambda: True)
    assert report.counts == Counts(32, 32, 0, 0, 0)


def test_indexed_images_are_not_decoded_again(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    index_folder(folder, store, RecordingCatalogue())
    models, catalogue = FakeModels(), RecordingCatalogue()
    index_folder(folder, store, catalogue, models)
    assert models.batches == []
    assert [(work.width, work.height) for work in catalogue.works] == [(16, 12)]


def test_owners_who_opted_out_are_counted_and_left_out(folder: Path, store: MemoryStore) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        picture(folder, name, number)
    (folder / "manifest.csv").write_text("file_name,noai\na.png,true\nb.png,\nc.png,0\nd.png,\n")
    removed = sha256_hex((folder / "d.png").read_bytes())
    opt_outs = OptOutList(frozenset({removed}), frozenset({"b.png"}))
    report = index_folder(folder, store, RecordingCatalogue(), opt_outs=opt_outs)
    assert report.counts == Counts(4, 1, 0, 3, 0)
    assert {row.key: row.kind for row in report.left_out} == dict.fromkeys(("a.png", "b.png", "d.png"), "opt_out")


def test_signals_are_ignored_only_if_configured(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    (folder / "manifest.csv").write_text("file_name,noai\na.png,true\n")
    assert index_folder(folder, store, RecordingCatalogue(), heed_signals=False).counts.points == 1


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_killed_run_is_resumed_without_gaps_or_duplicates(folder: Path, store: MemoryStore, batches: int) -> None:
    for number in range(100):
        picture(folder, f"{number:03}.png", number)
    indexer = Indexer(FakeModels(), store, RecordingCatalogue(), folder.parent / "thumbnails", "set")
    (shard,) = open_source(str(folder)).shards
    log, counts = RecordingLog(fail_after=batches), Report()
    with pytest.raises(Killed):
        indexer.run(shard, 0, log, counts.add)
    assert log.position == 32 * batches
    resumed = RecordingLog()
    indexer.run(shard, log.position, resumed, counts.add)
    assert store.info().points == 100
    assert counts.counts.read == resumed.position == 100
    assert counts.counts.points + counts.counts.duplicates == 100


def test_no_batch_is_written_after_one_that_failed(folder: Path) -> None:
    """The batch fails once two more are embedded and queued: progress must end before it."""
    ahead = threading.Event()

    class FailsOnce(MemoryStore):
        failed = False

        def upsert(self, points: Sequence[Point]) -> None:
            if not self.failed:
                self.failed = True
                assert ahead.wait(60)
                raise IndexUnavailable("late")
            super().upsert(points)

    def count(inputs: Float32Array) -> None:
        if len(models.batches) >= 2:
            ahead.set()

    for number in range(100):
        picture(folder, f"{number:03}.png", number)
    models = FakeModels(on_batch=count)
    store = FailsOnce(MemoryIndex())
    store.create(FAKE_IDENTITY)
    indexer = Indexer(models, store, RecordingCatalogue(), folder.parent / "thumbnails", "set")
    (shard,) = open_source(str(folder)).shards
    log, report = RecordingLog(), Report()
    with pytest.raises(IndexUnavailable):
        indexer.run(shard, 0, log, report.add)
    assert (log.position, report.counts.read, store.info().points) == (0, 0, 0)
    assert indexer.run(shard, log.position, log, report.add)
    assert (log.position, report.counts, store.info().points) == (100, Counts(100, 100), 100)


def test_copies_that_follow_closely_are_one_point(folder: Path, store: MemoryStore) -> None:
    """The second copy is read before the first one is written."""
    for number in range(40):
        picture(folder, f"a{number:03}.png", number)
        picture(folder, f"b{number:03}.png", number)
    models = FakeModels()
    assert index_folder(folder, store, RecordingCatalogue(), models).counts == Counts(80, 40, 40, 0, 0)
    assert sum(models.batches) == 40


def test_points_carry_unit_vectors(folder: Path, store: MemoryStore) -> None:
    picture(folder, "a.png", 1)
    index_folder(folder, store, RecordingCatalogue())
    (point,) = store.scan(with_vectors=True)
    assert np.linalg.norm(point.recall) == pytest.approx(1, abs=1e-5)
    assert point.payload["data_set"] == ["set"]


class KeypointModels(FakeModels):
    """Fake models of a profile with local features."""

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        first, *others = super().prepare_work(image)
        return [replace(first, local=example_features(7)), *others]


@pytest.mark.parametrize(
    ("models", "stored"), [(FakeModels(), []), (KeypointModels(), [example_features(7).to_text()])]
)
def test_points_carry_the_local_features_of_their_images(
    folder: Path, store: MemoryStore, models: FakeModels, stored: list[str]
) -> None:
    picture(folder, "a.png", 1)
    index_folder(folder, store, RecordingCatalogue(), models)
    (point,) = store.scan(with_vectors=True)
    assert [value for name, value in point.payload.items() if name == KEY_LOCAL_FEATURES] == stored


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


@given(st.lists(st.integers(), max_size=50), st.integers(1, 5))
def test_what_is_made_ahead_keeps_order(values: list[int], size: int) -> None:
    assert list(ahead(lambda: (value for value in values), size)) == values


def test_an_error_of_the_producer_is_raised_in_the_consumer() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise Killed

    produced = ahead(failing, 2)
    assert next(produced) == 1
    with pytest.raises(Killed):
        next(produced)


def test_closing_stops_the_producer() -> None:
    closed = []

    def endless() -> Generator[int, None, None]:
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    produced = ahead(endless, 2)
    next(produced)
    produced.close()
    assert closed == [True]


def test_an_image_that_is_too_small_to_be_valued_is_rejected(
    folder: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SMALLEST_SIDE_PX, FAKE_IDENTITY.name, 13)
    picture(folder, "a.png", 3)
    Image.new("RGB", (13, 13)).save(folder / "b.png")
    report = index_folder(folder, store, RecordingCatalogue())
    assert report.counts == Counts(2, 1, 0, 0, 1)
    assert report.left_out[0].reason.startswith("the image is 16 x 12 pixels, too small to be valued")


def test_a_file_of_several_frames_is_indexed_by_its_first_and_counted(folder: Path, store: MemoryStore) -> None:
    pages = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    pages[0].save(folder / "a.gif", save_all=True, append_images=pages[1:])
    picture(folder, "b.png", 3)
    report = index_folder(folder, store, RecordingCatalogue())
    assert report.counts == Counts(2, 2, 0, 0, 0, first_frames=1)
    assert report.as_dict()["first_frames"] == 1


def test_a_stop_does_not_wait_for_a_source_that_does_not_answer(
    folder: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.pipeline.STOP_WAIT_S", 0.0)
    reading, answered = threading.Event(), threading.Event()

    def read() -> bytes:
        reading.set()
        answered.wait(60)
        return b""

    items = [SourceItem("a", "file:///a", read)]
    shard = Shard("files 0", "x", 1, lambda _: iter(items))
    indexer = Indexer(FakeModels(), store, RecordingCatalogue(), folder / "thumbnails", "art")
    log = RecordingLog()
    try:
        assert indexer.run(shard, 0, log, stopping=reading.is_set) is False
    finally:
        answered.set()
    assert log.position == 0
