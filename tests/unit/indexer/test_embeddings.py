"""Tests of embeddings: an export is imported exactly, and files that do not fit are refused before any write."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmvaluator.errors import Conflict, InvalidManifest, MissingData, ProfileMismatch
from gmvaluator.ids import training_image_id
from gmvaluator.index.engine.checksums import CHECKSUM, vectors_checksum
from gmvaluator.index.schema import KEY_LOCAL_FEATURES, PERCEPTUAL, RECALL
from gmvaluator.ports import Float32Array, Point
from gmvaluator.profile import SMALLEST_SIDE_PX
from gmvaluator.testing.index import MemoryIndex, MemoryStore, example_features
from gmvaluator.testing.models import FAKE_IDENTITY
from indexer.embeddings.exporting import check_stated, embedded_shards, export, is_embeddings
from indexer.embeddings.importing import EmbeddingImporter, embeddings_source
from indexer.report import Counts, Report
from tests.support.indexing import RecordingCatalogue, RecordingLog


def unit(shape: tuple[int, ...], seed: int) -> Float32Array:
    rows = np.random.default_rng(seed).normal(size=shape)
    unit_rows: Float32Array = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return unit_rows


def sha(number: int) -> str:
    return f"{number:064x}"


def filled(count: int = 5) -> MemoryStore:
    store = MemoryStore(MemoryIndex())
    store.create(FAKE_IDENTITY)
    for number in range(count):
        sets = ["a", "b"] if number == 0 else ["a"]
        payload: dict[str, object] = {
            "sha256": sha(number),
            "key": f"k{number}",
            "uri": "",
            "title": "",
            "labels": ["x"],
            "data_set": sets,
        }
        if number < 3:
            payload[KEY_LOCAL_FEATURES] = example_features(number).to_text()
        recall, perceptual = unit((64,), number), unit((2, 192), 100 + number)
        store.upsert([Point(training_image_id(sha(number)), recall, perceptual, payload)])
    return store


def exported(folder: Path, store: MemoryStore | None = None) -> Path:
    store = store or filled()
    assert export(store.scan(with_vectors=True), FAKE_IDENTITY, RecordingCatalogue(), folder) == store.info().points
    return folder


def imported(
    folder: Path, catalogue: RecordingCatalogue | None = None, store: MemoryStore | None = None, start: int = 0
) -> tuple[MemoryStore, Report, RecordingLog]:
    if store is None:
        store = MemoryStore(MemoryIndex())
        store.create(FAKE_IDENTITY)
    files = {shard.number: shard for shard in embedded_shards(folder)}
    importer = EmbeddingImporter(
        store, catalogue or RecordingCatalogue(), FAKE_IDENTITY, files, "new", own_data_sets=True
    )
    report, log = Report(), RecordingLog()
    for shard in embeddings_source(files, FAKE_IDENTITY).shards:
        assert importer.run(shard, start, log, report.add)
    return store, report, log


def rewritten(folder: Path, **columns: list[object] | None) -> Path:
    """Rewrite the first shard's metadata with columns changed, or dropped where None."""
    path = folder / "metadata/metadata_0000.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)
    return folder


def test_an_index_is_rebuilt_from_its_export(tmp_path: Path) -> None:
    before = filled()
    assert is_embeddings(str(exported(tmp_path, before)))
    catalogue = RecordingCatalogue()
    store, report, log = imported(tmp_path, catalogue)
    assert report.counts == Counts(5, 5, 0, 0, 0)
    assert log.position == 5
    for old, new in zip(before.scan(with_vectors=True), store.scan(with_vectors=True), strict=True):
        assert old.training_image_id == new.training_image_id
        vectors = {RECALL: new.recall, PERCEPTUAL: new.perceptual}
        np.testing.assert_allclose(old.recall, new.recall, atol=1e-6)
        np.testing.assert_allclose(old.perceptual, new.perceptual, atol=1e-6)
        assert {**old.payload, CHECKSUM: vectors_checksum(vectors)} == new.payload
    assert sorted({work.data_set for work in catalogue.works}) == ["a", "b"]


def test_embeddings_without_local_features_are_imported(tmp_path: Path) -> None:
    rewritten(exported(tmp_path), local_features=None)
    store, report, _ = imported(tmp_path)
    assert report.counts == Counts(5, 5, 0, 0, 0)
    assert all(KEY_LOCAL_FEATURES not in point.payload for point in store.scan(with_vectors=True))


@pytest.mark.parametrize("features", ["", "%%%", "ü", example_features(2).to_text().replace("A", "B")])
def test_a_row_with_damaged_local_features_is_a_reject(tmp_path: Path, features: str) -> None:
    rewritten(exported(tmp_path), local_features=[None, features, None, None, None])
    _, report, _ = imported(tmp_path)
    assert report.counts == Counts(5, 4, 0, 0, 1)
    assert (report.left_out[0].key, report.left_out[0].reason[:14]) == ("k1", "local features")


def test_local_features_that_are_no_text_are_rejects(tmp_path: Path) -> None:
    rewritten(exported(tmp_path), local_features=[[1.0]] * 5)
    _, report, _ = imported(tmp_path)
    assert "local_features are list, not text" in report.left_out[0].reason


def test_importing_again_adds_nothing_and_goes_on_from_a_position(tmp_path: Path) -> None:
    exported(tmp_path)
    store, _, _ = imported(tmp_path)
    assert imported(tmp_path, store=store)[1].counts == Counts(5, 0, 5, 0, 0)
    assert imported(tmp_path, start=3)[1].counts == Counts(2, 2, 0, 0, 0)


def test_half_precision_embeddings_of_clip_retrieval_are_taken(tmp_path: Path) -> None:
    exported(tmp_path)
    for folder in ("img_emb", "perceptual_emb"):
        for path in (tmp_path / folder).iterdir():
            np.save(path, np.load(path).astype(np.float16) * np.float16(3))
    (point, *_) = imported(tmp_path)[0].scan(with_vectors=True)
    assert np.linalg.norm(point.recall) == pytest.approx(1, abs=1e-5)


def test_an_embedding_of_an_image_that_is_too_small_to_be_valued_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SMALLEST_SIDE_PX, FAKE_IDENTITY.name, 9)
    exported(tmp_path)
    rewritten(tmp_path, width=[8, 9, 9, 9, 9], height=[9, 9, 9, 9, 9])
    _, report, _ = imported(tmp_path)
    assert report.counts == Counts(5, 4, 0, 0, 1)
    assert "too small to be valued" in report.left_out[0].reason


def test_rows_that_cannot_be_used_are_left_out_with_the_reason(tmp_path: Path) -> None:
    exported(tmp_path)
    recall = np.load(tmp_path / "img_emb/img_emb_0000.npy")
    recall[1], recall[2, 0] = 0, np.nan
    np.save(tmp_path / "img_emb/img_emb_0000.npy", recall)
    rewritten(tmp_path, noai=["", "", "", "true", ""], sha256=[sha(0), sha(1), sha(2), sha(3), "none"])
    _, report, log = imported(tmp_path)
    assert report.counts == Counts(5, 1, 0, 1, 3)
    assert [(position, row.kind) for position, row in log.left_out] == [
        (1, "reject"),
        (2, "reject"),
        (3, "opt_out"),
        (4, "reject"),
    ]


def test_removed_works_stay_out(tmp_path: Path) -> None:
    exported(tmp_path)
    assert imported(tmp_path, RecordingCatalogue([sha(2)]))[1].counts == Counts(5, 4, 0, 0, 0, 1)


def test_files_that_do_not_agree_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    exported(tmp_path)
    np.save(tmp_path / "img_emb/img_emb_0000.npy", unit((4, 64), 0))
    with pytest.raises(InvalidManifest, match="rows"):
        imported(tmp_path)
    np.save(tmp_path / "img_emb/img_emb_0000.npy", unit((5, 63), 0))
    with pytest.raises(InvalidManifest, match="--profile"):
        imported(tmp_path)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    exported(tmp_path)
    np.save(tmp_path / "img_emb/img_emb_0000.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidManifest):
        imported(tmp_path)


def test_without_perceptual_vectors_it_says_what_to_do(tmp_path: Path) -> None:
    exported(tmp_path)
    (tmp_path / "perceptual_emb/perceptual_emb_0000.npy").unlink()
    with pytest.raises(MissingData, match="re-ranked"):
        embedded_shards(tmp_path)


def test_embeddings_of_another_profile_are_refused(tmp_path: Path) -> None:
    exported(tmp_path)
    check_stated(tmp_path, FAKE_IDENTITY)
    other = {**FAKE_IDENTITY.as_dict(), "name": "other"}
    (tmp_path / "profile.json").write_text(json.dumps(other))
    with pytest.raises(ProfileMismatch, match="other"):
        check_stated(tmp_path, FAKE_IDENTITY)


def test_an_export_never_mixes_with_another(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    with pytest.raises(Conflict):
        export(filled().scan(with_vectors=True), FAKE_IDENTITY, RecordingCatalogue(), tmp_path / "out")


def test_an_interrupted_export_leaves_no_folder(tmp_path: Path) -> None:
    def cut(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(filled().scan(with_vectors=True), FAKE_IDENTITY, RecordingCatalogue(), tmp_path / "out", cut)
    assert not (tmp_path / "out").exists()
    exported(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
