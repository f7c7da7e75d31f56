"""Verification measures the index that is served, and stores the search settings that reach the target."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gmvaluator.errors import InvalidVector, MissingIndex, PreconditionFailed
from gmvaluator.index import verify as verification
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import CollectionMetadata, SearchSettings, growth_since_verified, outgrown
from gmvaluator.index.store import QdrantStore
from gmvaluator.index.verify import verify
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points
from indexer.cli import verify as verify_cli
from indexer.target import Target
from tests.support.index_places import EMBEDDED_AND_SERVER, IndexPlace, index_place, new_name

COLLECTION = new_name()


@pytest.fixture(scope="module", params=EMBEDDED_AND_SERVER)
def place(request: pytest.FixtureRequest) -> Iterator[IndexPlace]:
    """A built collection of 1,000 points."""
    with index_place(request, COLLECTION) as made, closing(made.open_store()) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(1000))
        store.build()
        yield made


@pytest.fixture
def store(place: IndexPlace) -> Iterator[QdrantStore]:
    with closing(place.open_store()) as opened:
        yield opened


def verified(place: IndexPlace, **settings: Any) -> dict[str, Any]:
    """The figures of a verification of the collection."""
    return verify(place.location, place.collection, api_key=place.api_key, **settings)


def test_figures_are_of_the_index(place: IndexPlace, store: QdrantStore) -> None:
    held_out = [point.recall for point in example_points(20, seed=7)]
    figures = verified(place, queries=held_out, sample=40, k=10)
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


async def test_search_uses_what_was_stored(place: IndexPlace, store: QdrantStore) -> None:
    metadata = store.metadata()
    wide = SearchSettings(oversampling=32.0, hnsw_ef=2048)
    store.record(metadata.with_search(wide, {"recall_at_50": 1.0}))
    search = place.open_search()
    stored = CollectionMetadata.from_dict(COLLECTION, (await search.info()).metadata)
    assert (stored.search, stored.measured) == (wide, {"recall_at_50": 1.0})
    await search.close()
    store.record(metadata)


def test_the_cheapest_settings_that_reach_the_target_are_chosen(place: IndexPlace, store: QdrantStore) -> None:
    """And each smaller step, asked alone, does not."""
    figures = verified(place, sample=60, k=10, target=0.97)
    chosen = SearchSettings(figures["oversampling"], figures["hnsw_ef"])
    assert figures["target_reached"]
    assert figures["recall_at_10_low"] >= 0.97
    assert CollectionMetadata.from_dict(COLLECTION, store.info().metadata).search == chosen
    easier = verified(place, sample=60, k=10, target=0.5)
    assert (easier["oversampling"], easier["hnsw_ef"]) == (1.0, 64)
    assert easier["oversampling"] <= chosen.oversampling


def test_a_target_that_nothing_reaches_is_said_so(
    place: IndexPlace, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "OVERSAMPLINGS", (1.0,))
    monkeypatch.setattr(verification, "HNSW_EFS", (64,))
    figures = verified(place, sample=60, k=50, target=1.0)
    assert not figures["target_reached"]
    assert (figures["oversampling"], figures["hnsw_ef"]) == (1.0, 64)


def test_sampled_and_held_out_queries_are_told_apart(place: IndexPlace) -> None:
    figures = verified(place, queries=[point.recall for point in example_points(20, seed=7)], sample=30, k=10)
    assert figures["held_out_queries"] == 20
    for name in ("recall_at_10_sampled", "recall_at_10_held_out"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
    assert "recall_at_10_held_out" not in verified(place, sample=10, k=10)


def test_a_filter_is_measured_next_to_the_whole_and_has_to_reach_the_target_too(
    place: IndexPlace, store: QdrantStore
) -> None:
    plain = verified(place, sample=60, k=10)
    figures = verified(place, sample=60, k=10, data_sets=["odd"])
    assert (figures["data_sets"], figures["filtered_points"]) == (["odd"], 500)
    assert figures["queries"] == plain["queries"]
    assert figures["recall_at_10_filtered_low"] >= 0.99
    assert figures["recall_at_10_filtered"] <= figures["recall_at_10_filtered_high"] <= 1
    assert figures["filtered_recall_p50_ms"] > 0
    assert figures["oversampling"] >= plain["oversampling"]
    measured = store.metadata().measured
    assert measured is not None
    assert measured["data_sets"] == ["odd"]
    assert "recall_at_10_filtered" not in plain


def test_the_true_neighbours_of_a_filter_are_in_its_data_sets(store: QdrantStore) -> None:
    points = example_points(1000)
    odd = {point.training_image_id for point in points[1::2]}
    query = points[0].recall
    for exact in (True, False):
        nearest = store.nearest(query, 20, SearchSettings(), ["odd"], exact=exact)
        assert len(nearest) == 20
        assert {image_id for image_id, _ in nearest} <= odd
    assert store.count(["odd"]) == store.count(["odd", "unknown"]) == 500
    assert (store.count(), store.count(["unknown"])) == (1000, 0)


def test_a_data_set_too_small_to_measure_is_refused(place: IndexPlace) -> None:
    with pytest.raises(PreconditionFailed, match=r"data sets od, o hold 0 points of .*check their names"):
        verified(place, sample=10, k=10, data_sets=["od", "o"])


def test_growth_since_it_was_verified_shows(place: IndexPlace, store: QdrantStore) -> None:
    measured = {"recall_at_50": 1.0, "points": 800}
    store.record(store.metadata().with_search(SearchSettings(), measured))
    assert growth_since_verified(store.info()) == pytest.approx(0.25)
    assert outgrown(store.info())
    assert verified(place, sample=10, k=10)["growth_since_verified"] == pytest.approx(0.25)
    assert not outgrown(store.info())


def test_points_that_are_not_quantised_show(place: IndexPlace, store: QdrantStore) -> None:
    late = example_points(250, seed=3)
    store.upsert(late)
    assert verified(place, sample=5, k=10)["quantised_share"] == 0.8
    store.build()
    assert verified(place, sample=5, k=10)["quantised_share"] == 1.0


def test_what_cannot_be_measured_is_refused(place: IndexPlace) -> None:
    with pytest.raises(MissingIndex):
        verify(place.location, "absent", api_key=place.api_key)
    with pytest.raises(PreconditionFailed, match="needs more"):
        verified(place, k=2000)
    with pytest.raises(InvalidVector, match="query 0"):
        verified(place, queries=[example_points(1)[0].perceptual])


@pytest.fixture(params=EMBEDDED_AND_SERVER)
def empty_place(request: pytest.FixtureRequest) -> Iterator[IndexPlace]:
    with index_place(request, new_name()) as made:
        yield made


@pytest.mark.parametrize("quantisation", CHOICES)
def test_every_quantisation_compresses_every_point_and_is_rescored(empty_place: IndexPlace, quantisation: str) -> None:
    with closing(empty_place.open_store(quantisation)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(300))
        store.build()
        assert store.metadata().quantisation == quantisation
        figures = verified(empty_place, sample=20, k=10)
    assert figures["quantisation"] == quantisation
    assert figures["quantised_share"] == 1.0
    assert figures["recall_at_10"] >= 0.98


def test_an_index_that_outgrew_its_verification_is_held_against_the_same_target(
    place: IndexPlace, store: QdrantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tmp_path, str(place.location), COLLECTION)
    asked_for: list[float] = []

    def found(wanted: float, data_sets: object, recall: float) -> dict[str, object]:
        assert data_sets == ["odd"]
        asked_for.append(wanted)
        return {"k": 50, "recall_at_50": recall, "recall_target": wanted, "quantised_share": 1.0,
                "sampled_without_checksum": 0, "target_reached": False, "growth_since_verified": 0.25}  # fmt: skip

    for recall, trusted in ((0.99, True), (0.5, False)):
        store.record(
            store.metadata().with_search(
                SearchSettings(), {"points": 800, "recall_target": 0.995, "data_sets": ["odd"]}
            )
        )
        monkeypatch.setattr(verify_cli, "measure", lambda *given, recall=recall: found(given[-2], given[-1], recall))
        assert verify_cli.verify_if_outgrown(target, store.info()) is trusted
    assert asked_for == [0.995, 0.995]
