"""Verification measures the index that is served, and stores the search settings that reach the target."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gmvaluator.errors import InvalidVector, MissingIndex, PreconditionFailed
from gmvaluator.index import verify as verification
from gmvaluator.index.connection import open_search, open_store
from gmvaluator.index.quantisation import CHOICES
from gmvaluator.index.schema import CollectionMetadata, SearchSettings
from gmvaluator.index.store import QdrantStore
from gmvaluator.index.verify import verify
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An engine with a built collection of 1,000 points."""
    folder = tmp_path_factory.mktemp("index")
    with closing(open_store(folder)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(1000))
        store.build()
        yield folder


@pytest.fixture
def store(folder: Path) -> Iterator[QdrantStore]:
    with closing(open_store(folder)) as opened:
        yield opened


def test_figures_are_of_the_index(folder: Path, store: QdrantStore) -> None:
    held_out = [point.recall for point in example_points(20, seed=7)]
    figures = verify(folder, queries=held_out, sample=40, k=10)
    assert (figures["points"], figures["quantised_points"], figures["quantised_share"]) == (1000, 1000, 1.0)
    assert 40 < figures["queries"] <= 60
    assert figures["recall_at_10"] >= 0.98
    assert figures["recall_at_10_unrescored"] < figures["recall_at_10"]
    for name in ("recall_at_10", "recall_at_10_unrescored"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
    assert 0 < figures["recall_p50_ms"] <= figures["recall_p99_ms"]
    measured = store.metadata().measured
    assert measured is not None
    assert measured["recall_at_10"] == figures["recall_at_10"]
    assert measured["measured_at"].endswith("+00:00")


async def test_search_uses_what_was_stored(folder: Path, store: QdrantStore) -> None:
    metadata = store.metadata()
    wide = SearchSettings(oversampling=32.0, hnsw_ef=2048)
    store.record(metadata.with_search(wide, {"recall_at_50": 1.0}))
    search = open_search(folder)
    stored = CollectionMetadata.from_dict("works", (await search.info()).metadata)
    assert (stored.search, stored.measured) == (wide, {"recall_at_50": 1.0})
    await search.close()
    store.record(metadata)


def test_it_searches_further_until_the_target_is_met(
    folder: Path, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor, good = SearchSettings(1.0, 8, rescore=False), SearchSettings(16.0, 512)
    monkeypatch.setattr(verification, "LADDER", (poor, good))
    store.record(store.metadata().with_search(poor, {}))
    figures = verify(folder, sample=30, k=10, target=0.97)
    assert (figures["oversampling"], figures["hnsw_ef"]) == (16.0, 512)
    assert CollectionMetadata.from_dict("works", store.info().metadata).search == good


def test_points_that_are_not_quantised_show(folder: Path, store: QdrantStore) -> None:
    late = example_points(250, seed=3)
    store.upsert(late)
    assert verify(folder, sample=5, k=10)["quantised_share"] == 0.8
    store.build()
    assert verify(folder, sample=5, k=10)["quantised_share"] == 1.0


def test_what_cannot_be_measured_is_refused(folder: Path) -> None:
    with pytest.raises(MissingIndex):
        verify(folder, "absent")
    with pytest.raises(PreconditionFailed, match="needs more"):
        verify(folder, k=2000)
    with pytest.raises(InvalidVector, match="query 0"):
        verify(folder, queries=[example_points(1)[0].perceptual])


@pytest.mark.parametrize("quantisation", CHOICES)
def test_every_quantisation_compresses_every_point_and_is_rescored(tmp_path: Path, quantisation: str) -> None:
    with closing(open_store(tmp_path, quantisation=quantisation)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(300))
        store.build()
        assert store.metadata().quantisation == quantisation
        figures = verify(tmp_path, sample=20, k=10)
    assert figures["quantisation"] == quantisation
    assert figures["quantised_share"] == 1.0
    assert figures["recall_at_10"] >= 0.98
