"""Serving goes on while the index is built, and what is written meanwhile is kept."""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from qdrant_client import models

from gmvaluator.index.engine.launcher import Contact, EngineLease
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.index.qdrant import connect
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Point
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose engine runs for the whole module."""
    folder = tmp_path_factory.mktemp("engine")
    with closing(EngineLease(folder)):
        yield folder


@pytest.fixture
def name() -> str:
    """A collection of the test's own."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def store(folder: Path, name: str) -> Iterator[QdrantStore]:
    with closing(open_store(folder, name)) as opened:
        opened.create(EXAMPLE_IDENTITY)
        yield opened


@pytest.fixture
async def search(folder: Path, name: str, store: QdrantStore) -> AsyncIterator[QdrantSearch]:
    opened = open_search(folder, name)
    yield opened
    await opened.close()


def ask_for_a_build(store: QdrantStore, name: str) -> models.CollectionStatus:
    with closing(connect(store.endpoint)) as client:
        client.update_collection(name, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
        return client.get_collection(name).status


async def test_queries_are_answered_and_writes_are_kept_during_a_build(
    name: str, store: QdrantStore, search: QdrantSearch
) -> None:
    points = example_points(1500)
    store.upsert(points)
    assert ask_for_a_build(store, name) == models.CollectionStatus.YELLOW
    answered, seed = 0, 1
    written: list[Point] = []
    while not (await search.info()).ready:
        query = points[answered % 1500]
        assert (await search.recall(query.recall, 5))[0].training_image_id == query.training_image_id
        answered += 1
        if len(written) < 200:
            written += example_points(20, seed=seed)
            store.upsert(written[-20:])
            seed += 1
    assert answered
    assert written
    info = store.info()
    assert info.points == info.indexed_points == 1500 + len(written)
    for late in written[:: max(1, len(written) // 10)]:
        assert (await search.recall(late.recall, 1))[0].training_image_id == late.training_image_id


async def test_a_search_outlives_the_engine(folder: Path, store: QdrantStore, search: QdrantSearch) -> None:
    points = example_points(100)
    store.upsert(points)
    store.build()
    for point in points[:2]:
        contact = Contact.read(folder)
        assert contact is not None
        os.kill(contact.pid, signal.SIGKILL)
        assert (await search.recall(point.recall, 1))[0].training_image_id == point.training_image_id
    assert store.info().indexed_points == 100


def test_overwritten_points_count_as_quantised_only_once_they_are(store: QdrantStore) -> None:
    store.upsert(example_points(300))
    assert (store.info().indexed_points, store.info().ready) == (0, False)
    store.build()
    assert (store.info().indexed_points, store.info().ready) == (300, True)
    store.upsert(example_points(300)[:40])
    info = store.info()
    assert (info.points, info.indexed_points, info.ready) == (300, 260, False)
    store.build()
    assert (store.info().indexed_points, store.info().ready) == (300, True)


def test_the_quantised_share_is_that_of_the_files(folder: Path, name: str, store: QdrantStore) -> None:
    store.upsert(example_points(300))
    store.build()
    codes = list((folder / name).glob("generation-*/segments/*/vector_storage-recall/quantized.data"))
    assert [path.stat().st_size for path in codes] == [300 * 64 * 4 // 16]
    perceptual = (folder / name).glob("generation-*/segments/*/vector_storage-perceptual/quantized.data")
    assert not list(perceptual)


def test_building_what_is_built_changes_nothing(folder: Path, name: str, store: QdrantStore) -> None:
    store.build()
    store.upsert(example_points(100))
    store.build()
    generation = (folder / name / "CURRENT").read_text()
    store.build()
    assert (folder / name / "CURRENT").read_text() == generation
