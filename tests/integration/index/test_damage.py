"""Damage to the files of stored vectors: nobody is paid by it, and it is found."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge

from gmvaluator.errors import IndexFailed
from gmvaluator.files import FileLock
from gmvaluator.index.deep_check import check_works
from gmvaluator.index.engine import stored_vectors
from gmvaluator.index.engine.checksums import CHECKSUM
from gmvaluator.index.engine.collection import Collection
from gmvaluator.index.engine.launcher import ENGINE_LOCK
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.index.schema import KEY_LOCAL_FEATURES
from gmvaluator.index.vectors import with_checksum
from gmvaluator.ports import Float32Array, Point
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_features, example_points, with_local_features
from indexer.cli.verify import check_deeply
from indexer.target import Target

BUILT = [with_checksum(point) for point in example_points(300)]
LATE = [with_checksum(point) for point in example_points(5, seed=1)]
"""Points that were written after the build."""

OLD = example_points(5, seed=2)
"""Points of a release that wrote no checksum."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("index")
    with closing(open_store(folder)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert([*BUILT, *OLD])
        store.build()
        store.upsert(LATE)
        store.info()  # flushes what was written
        yield folder


@contextmanager
def changed(folder: Path, vectors: Float32Array, change: Callable[[Float32Array], Any]) -> Iterator[None]:
    """Change stored vectors in their file, as a disk or another program does, and undo it afterwards."""
    data = vectors.tobytes()
    for path in (folder / "works").rglob("vector_storage-*/**/*"):
        if path.suffix in (".mmap", ".dat") and (place := path.read_bytes().find(data)) >= 0:
            break
    else:
        raise AssertionError("the vectors are in no file")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        rows = vectors.copy()
        change(rows)
        memory[place : place + len(data)] = rows.tobytes()
        yield
        memory[place : place + len(data)] = data


def flip_exponent(vectors: Float32Array) -> None:
    vectors.view(np.uint32).flat[7] ^= 1 << 30


def flip_low_bit(vectors: Float32Array) -> None:
    vectors.view(np.uint32).flat[7] ^= 1 << 5


def zero(vectors: Float32Array) -> None:
    vectors[...] = 0


def take_another_works(vectors: Float32Array) -> None:
    vectors[...] = BUILT[1].recall if vectors.ndim == 1 else BUILT[1].perceptual


DAMAGES = [flip_exponent, flip_low_bit, zero, take_another_works]


async def rerank(folder: Path, query: Float32Array, works: list[Point]) -> None:
    search = open_search(folder)
    try:
        await search.rerank(query, [work.training_image_id for work in works], 3)
    finally:
        await search.close()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["perceptual", "recall"])
@pytest.mark.parametrize("work", [BUILT[0], LATE[0]], ids=["built", "late"])
async def test_a_work_with_damaged_vectors_stops_the_posting(
    folder: Path, work: Point, name: str, damage: Callable[[Float32Array], Any]
) -> None:
    """Also if the damage moves the work out of the result, and whichever of its vectors it is in."""
    query = BUILT[20].perceptual
    others = BUILT[10:30]
    with changed(folder, getattr(work, name), damage):
        with pytest.raises(IndexFailed, match=f"{work.training_image_id}.*do not match their checksum"):
            await rerank(folder, query, [*others, work])
        await rerank(folder, query, others)
        checked = check_works(folder)
        assert list(checked.damaged) == [work.training_image_id]
    await rerank(folder, query, [*others, work])
    assert not check_works(folder).damaged


@pytest.mark.parametrize("damage", [flip_exponent, zero])
async def test_works_without_a_checksum_are_compared_and_their_norms_checked(
    folder: Path, damage: Callable[[Float32Array], Any]
) -> None:
    await rerank(folder, OLD[1].perceptual, OLD)
    checked = check_works(folder)
    assert checked.figures() == {
        "works_checked": 310,
        "works_without_checksum": 5,
        "works_without_local_features": 310,
        "works_damaged": 0,
    }
    with changed(folder, OLD[0].perceptual, damage):
        with pytest.raises(IndexFailed, match="unit norm"):
            await rerank(folder, OLD[1].perceptual, OLD)
        assert list(check_works(folder).damaged) == [OLD[0].training_image_id]


def test_damaged_local_features_are_found(folder: Path) -> None:
    sound, cut, other, without = (replace(point, payload={}) for point in BUILT[:4])
    points = [
        with_local_features(sound, example_features()),
        replace(cut, payload={KEY_LOCAL_FEATURES: example_features().to_text()[:-4]}),
        replace(other, payload={KEY_LOCAL_FEATURES: 7}),
        without,
    ]
    with closing(open_store(folder, "features")) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(points)
    checked = check_works(folder, "features")
    assert checked.damaged.keys() == {cut.training_image_id, other.training_image_id}
    assert all("local features" in reason for reason in checked.damaged.values())
    assert checked.figures()["works_without_local_features"] == 1


@pytest.mark.parametrize(("kind", "said"), [("sift", True), ("", False)])
def test_works_that_lack_their_local_features_are_reported_even_if_all_do(
    kind: str, said: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(open_store(folder, f"described-{kind}")) as store:
        store.create(replace(EXAMPLE_IDENTITY, local_features=kind))
        store.upsert(BUILT[:3])
    check_deeply(Target(folder.parent, str(folder), f"described-{kind}"))
    assert ("3 works have no local features" in capsys.readouterr().err) == said


async def test_a_server_that_does_not_check_is_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a while: what was just found sound is not read again."""
    search = open_search(folder)
    await search.info()
    assert search._settings is not None
    assert search._settings.checks_vectors
    search._settings = replace(search._settings, checks_vectors=False)
    ids = [point.training_image_id for point in [*BUILT[:5], *OLD]]
    with changed(folder, BUILT[0].perceptual, flip_low_bit), pytest.raises(IndexFailed, match="do not match"):
        await search._check_works(ids)
    await search._check_works(ids)
    with changed(folder, BUILT[0].perceptual, flip_low_bit):
        await search._check_works(ids)
        monkeypatch.setattr("gmvaluator.index.server_checks.RECHECK_S", 0.0)
        with pytest.raises(IndexFailed, match="do not match"):
            await search._check_works(ids)
    await search.close()


def opened(tmp_path: Path) -> Collection:
    with closing(open_store(tmp_path)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(BUILT)
        store.build()
    with FileLock(tmp_path / ENGINE_LOCK):  # once the engine has ended
        return Collection(tmp_path / "works")


def test_files_and_engine_agree_about_every_work_that_a_build_has_finished(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as collection:
        shard = collection._current
        stored = stored_vectors.StoredVectors(shard, collection.settings)
        ids = [point.training_image_id for point in BUILT]
        vectors = stored.read([*ids, UUID(int=1)])
        assert len(vectors) == len(BUILT)
        for point in BUILT:
            assert (vectors[point.training_image_id]["perceptual"] == point.perceptual).all()
            assert (vectors[point.training_image_id]["recall"] == point.recall).all()
        # Files of another layout: the vectors are read through qdrant-edge.
        for file in shard.glob("segments/*/id_tracker.mappings"):
            file.write_bytes(b"\2" * 300)
        collection._checks = None
        assert not stored_vectors.StoredVectors(shard, collection.settings).read(ids)
        assert not collection.damaged(ids)
        with changed(tmp_path, BUILT[3].perceptual, flip_low_bit):
            assert list(collection.damaged(ids)) == [ids[3]]


def test_what_is_written_later_replaces_what_the_files_have(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as collection:
        first, other = BUILT[0], with_checksum(example_points(1, seed=5)[0])
        ids = [first.training_image_id, BUILT[1].training_image_id]
        assert not collection.damaged(ids)
        vectors: Any = {"recall": other.recall.tolist(), "perceptual": other.perceptual.tolist()}
        point = edge.Point(ids[0], vectors, {CHECKSUM: other.payload[CHECKSUM]})
        collection.write(edge.UpdateOperation.upsert_points([point]), 1)
        collection.write(edge.UpdateOperation.delete_points([ids[1]]), 1)
        assert not collection.damaged(ids)
        collection.flush()
        assert not collection.damaged(ids)
        with changed(tmp_path, other.perceptual, flip_low_bit):
            assert list(collection.damaged(ids)) == [ids[0]]
