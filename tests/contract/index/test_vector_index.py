"""One suite for ports.VectorStore and ports.CandidateSearch over every adapter.

In memory, on the embedded engine over the wire, and on a Qdrant server where there is one.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gmvaluator.errors import IndexFailed, InvalidVector, MissingIndex, ProfileMismatch
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.launcher import EngineLease
from gmvaluator.index.schema import ALONE, KEY_DATA_SET, KEY_LOCAL_FEATURES, duplicate_group
from gmvaluator.ports import Candidate, CandidateSearch, Float32Array, Point, VectorStore
from gmvaluator.testing.index import (
    EXAMPLE_IDENTITY,
    MemoryIndex,
    MemorySearch,
    MemoryStore,
    example_features,
    example_points,
    with_local_features,
)
from indexer.near_duplicates import Grouper
from tests.support.index_places import EMBEDDED_AND_SERVER, index_place, new_name

BUILT_POINTS = 400
ADAPTERS = ["memory", *EMBEDDED_AND_SERVER]


@dataclass
class Place:
    """One collection's writing side, and how its reading side is opened, which belongs to one test's event loop."""

    store: VectorStore
    open_search: Callable[[], CandidateSearch]


@dataclass
class Index:
    """One collection's two sides, under test."""

    store: VectorStore
    search: CandidateSearch


@pytest.fixture(scope="module")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose engine runs for the whole module."""
    folder = tmp_path_factory.mktemp("engine")
    lease = EngineLease(folder)
    yield folder
    lease.close()


@contextmanager
def new_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A collection that does not exist yet, at the adapter that the fixture's parameter names."""
    if request.param == "memory":
        memory = MemoryIndex(new_name())
        yield Place(MemoryStore(memory), lambda: MemorySearch(memory))
        return
    folder = request.getfixturevalue("engine_folder") if request.param == "embedded" else None
    with index_place(request, new_name(), folder) as made, closing(made.open_store()) as store:
        yield Place(store, made.open_search)


@pytest.fixture(params=ADAPTERS)
async def index(request: pytest.FixtureRequest) -> AsyncIterator[Index]:
    """A collection that does not exist yet."""
    with new_place(request) as made:
        search = made.open_search()
        yield Index(made.store, search)
        await search.close()


@pytest.fixture(scope="module", params=ADAPTERS)
def built_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with new_place(request) as made:
        fill(made, BUILT_POINTS)
        yield made


@pytest.fixture
async def built(built_place: Place) -> AsyncIterator[Index]:
    """A built collection of `example_points(BUILT_POINTS)`, which no test changes."""
    search = built_place.open_search()
    yield Index(built_place.store, search)
    await search.close()


def fill(index: Index | Place, count: int, build: bool = True) -> list[Point]:
    """Write so many example points into a new collection."""
    points = example_points(count)
    index.store.create(EXAMPLE_IDENTITY)
    index.store.upsert(points)
    if build:
        index.store.build()
    return points


def with_recall(point: Point, vector: Float32Array) -> Point:
    return replace(point, recall=vector)


async def test_a_missing_collection_is_named(index: Index) -> None:
    point = example_points(1)[0]
    with pytest.raises(MissingIndex, match="index"):
        index.store.info()
    with pytest.raises(MissingIndex):
        index.store.upsert([point])
    with pytest.raises(MissingIndex):
        await index.search.recall(point.recall, 5)
    with pytest.raises(MissingIndex):
        await index.search.recall_with_windows(point.recall, 5, point.recall[None], 5)
    with pytest.raises(MissingIndex):
        await index.search.local_features([point.training_image_id])


async def test_an_empty_collection_answers_nothing(index: Index) -> None:
    fill(index, 0)
    point = example_points(1)[0]
    assert index.store.info().ready
    assert list(index.store.scan()) == []
    assert await index.search.recall(point.recall, 5) == []
    assert await index.search.rerank(point.perceptual[:1], [point.training_image_id], 5) == []


async def test_another_profile_is_refused(index: Index) -> None:
    index.store.create(EXAMPLE_IDENTITY)
    index.store.create(EXAMPLE_IDENTITY)
    other = replace(EXAMPLE_IDENTITY, name="other", precision="bf16")
    with pytest.raises(ProfileMismatch, match=r"'example'.*'other'.*name, precision.*another collection"):
        index.store.create(other)


@pytest.mark.parametrize("count", [1, 5, 100])
async def test_small_collections_work(index: Index, count: int) -> None:
    points = fill(index, count)
    info = index.store.info()
    assert (info.points, info.ready) == (count, True)
    for point in points[:5]:
        nearest = (await index.search.recall(point.recall, 3))[0]
        assert nearest.training_image_id == point.training_image_id
        assert nearest.clip_similarity == pytest.approx(1.0, abs=1e-5)


async def test_two_stages_agree_with_numpy(built: Index) -> None:
    points = example_points(BUILT_POINTS)
    recall, perceptual = (np.stack([getattr(point, name) for point in points]) for name in ("recall", "perceptual"))
    for query in example_points(410)[:20:3]:
        candidates = await built.search.recall(query.recall, 60)
        cosines = recall.astype(np.float64) @ query.recall
        nearest = np.argsort(-cosines, kind="stable")[:60]
        assert [one.training_image_id for one in candidates] == [points[i].training_image_id for i in nearest]
        assert [one.clip_similarity for one in candidates] == pytest.approx(cosines[nearest], abs=1e-5)
        ids = [one.training_image_id for one in candidates]
        asked = query.perceptual[1:]
        neighbours = await built.search.rerank(asked, ids, 10)
        distances = 1 - (perceptual[nearest].astype(np.float64) @ asked.T).max(axis=(1, 2))
        order = np.argsort(distances, kind="stable")[:10]
        assert [one.training_image_id for one in neighbours] == [ids[i] for i in order]
        assert [one.perceptual_distance for one in neighbours] == pytest.approx(distances[order], abs=1e-5)


async def test_recall_never_drops_points(built: Index) -> None:
    points = example_points(BUILT_POINTS)
    found = await built.search.recall(points[0].recall, 1000)
    assert {one.training_image_id for one in found} == {point.training_image_id for point in points}


async def test_recall_keeps_to_the_data_sets(built: Index) -> None:
    points = example_points(BUILT_POINTS)
    odd = {point.training_image_id for point in points[1::2]}
    query = points[0].recall
    assert {one.training_image_id for one in await built.search.recall(query, 1000, ["odd"])} == odd
    assert len(await built.search.recall(query, 1000, ["odd", "all"])) == BUILT_POINTS
    assert await built.search.recall(query, 1000, ["unknown"]) == []
    assert await built.search.recall(query, 1000, []) == []


async def test_windows_are_recalled_with_the_whole(built: Index) -> None:
    query, *others = (point.recall for point in example_points(BUILT_POINTS)[:4])
    windows = np.stack(others)
    for data_sets in (None, ["odd"], ["unknown"], []):
        whole, parts = await built.search.recall_with_windows(query, 60, windows, 7, data_sets)
        assert whole == await built.search.recall(query, 60, data_sets)
        assert parts == [await built.search.recall(window, 7, data_sets) for window in windows]
    assert await built.search.recall_with_windows(query, 5, windows[:0], 7) == (await built.search.recall(query, 5), [])


async def test_windows_of_a_small_collection_never_drop_points(index: Index) -> None:
    points = fill(index, 6)
    whole, parts = await index.search.recall_with_windows(points[0].recall, 3, np.stack([points[1].recall] * 2), 9)
    assert (len(whole), *map(len, parts)) == (3, 6, 6)
    with pytest.raises(InvalidVector, match="norm 0"):
        await index.search.recall_with_windows(points[0].recall, 3, np.zeros((1, 64), np.float32), 9)


async def test_local_features_are_those_of_the_works_asked_for(index: Index) -> None:
    first, second, without, other = example_points(4)
    features = {point.training_image_id: example_features(20, seed) for seed, point in enumerate([first, second])}
    index.store.create(EXAMPLE_IDENTITY)
    stored = [with_local_features(point, features[point.training_image_id]) for point in (first, second)]
    index.store.upsert([*stored, without, with_local_features(other, example_features())])
    index.store.remove([other.training_image_id])
    unknown = TrainingImageId(uuid.uuid4())
    ids = [second.training_image_id, unknown, without.training_image_id, other.training_image_id, *features]
    answer = await index.search.local_features(ids)
    assert {work: found.to_text() for work, found in answer.items()} == {
        work: wanted.to_text() for work, wanted in features.items()
    }
    assert (await index.search.local_features(ids)).keys() == features.keys()
    assert await index.search.local_features([]) == {}


@pytest.mark.parametrize("damaged", ["", "%%%", example_features(3).to_text()[:-4], 7])
async def test_damaged_local_features_are_named(index: Index, damaged: object) -> None:
    point = example_points(1)[0]
    index.store.create(EXAMPLE_IDENTITY)
    index.store.upsert([replace(point, payload={KEY_LOCAL_FEATURES: damaged})])
    with pytest.raises(IndexFailed, match=f"local features of work {point.training_image_id} are damaged"):
        await index.search.local_features([point.training_image_id])


async def test_a_point_joins_a_data_set_once_and_keeps_what_it_had(index: Index) -> None:
    index.store.create(EXAMPLE_IDENTITY)
    first, second = example_points(2)
    index.store.upsert([first, second])
    unknown = TrainingImageId(uuid.uuid4())
    for _ in range(2):
        index.store.join_data_set([first.training_image_id, unknown], "late")
    stored = {point.training_image_id: point.payload for point in index.store.scan()}
    assert stored[first.training_image_id] == {**first.payload, KEY_DATA_SET: [*first.payload[KEY_DATA_SET], "late"]}
    assert stored[second.training_image_id] == second.payload
    found = await index.search.recall(first.recall, 10, ["late"])
    assert [candidate.training_image_id for candidate in found] == [first.training_image_id]


async def test_near_copies_are_grouped_where_they_are_stored(index: Index) -> None:
    """A copy of the first point, and one more that nobody has looked at when the first run ends."""
    points = fill(index, 30, build=False)
    copies = [replace(points[0], training_image_id=TrainingImageId(uuid.uuid4())) for _ in range(2)]
    index.store.upsert(copies[:1])
    order = {point.training_image_id: place for place, point in enumerate([*points, *copies])}
    first, work = points[0].training_image_id, copies[0].training_image_id
    assert set(index.store.ungrouped()) == order.keys() - {copies[1].training_image_id}
    (near,) = index.store.neighbours([points[0].recall], 2)
    assert {one.training_image_id for one in near} == {first, work}
    assert Grouper(index.store, Order(order), 0.1).run().joined == 1
    assert index.store.ungrouped() == []
    index.store.upsert(copies[1:])
    assert index.store.group_members(copies[1].training_image_id, 9) is None
    done = Grouper(index.store, Order(order), 0.1).run()
    assert (done.checked, done.groups) == (1, {first})
    found = {point.training_image_id: duplicate_group(point.payload) for point in index.store.fetch([*order])}
    assert {one for one, group in found.items() if group == first} == {first, work, copies[1].training_image_id}
    assert {group for one, group in found.items() if group != first} == {None}
    group = sorted({first, work, copies[1].training_image_id})
    assert [index.store.group_members(one, 9) for one in group] == [group] * 3
    assert index.store.group_members(work, 2) == group[:2]
    assert index.store.group_members(points[1].training_image_id, 9) == []
    assert index.store.group_members(TrainingImageId(uuid.uuid4()), 9) is None


@dataclass
class Order:
    """Works in the order of a list."""

    places: dict[TrainingImageId, int]

    def first_seen(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, int]:
        return {one: self.places[one] for one in ids}


async def test_indexing_can_wait_for_one_build(index: Index) -> None:
    fill(index, 60)
    late = example_points(60, seed=4)
    index.store.defer_indexing()
    index.store.upsert(late)
    info = index.store.info()
    assert (info.points, info.indexed_points, info.ready) == (120, 60, False)
    assert (await index.search.recall(late[3].recall, 1))[0].training_image_id == late[3].training_image_id
    index.store.build()
    assert (index.store.info().indexed_points, index.store.info().ready) == (120, True)


async def test_what_is_removed_is_found_no_more(index: Index) -> None:
    points = fill(index, 60)
    gone, left = points[:5], points[5:]
    ids = [point.training_image_id for point in gone]
    for _ in ("once", "again"):
        index.store.remove([*ids, TrainingImageId(uuid.uuid4())])
    index.store.remove([])
    assert index.store.existing(ids) == set()
    found = await index.search.recall(gone[0].recall, 100)
    assert {one.training_image_id for one in found} == {point.training_image_id for point in left}
    assert await index.search.rerank(gone[0].perceptual[:1], ids, 5) == []
    index.store.build()
    assert (index.store.info().points, index.store.info().indexed_points) == (55, 55)


async def test_a_group_that_lost_its_first_is_looked_at_anew(index: Index) -> None:
    first, member, other = (point.training_image_id for point in fill(index, 3, build=False))
    index.store.set_group([first, member], str(first))
    index.store.set_group([other], ALONE)
    index.store.remove([first])
    index.store.ungroup([first])
    index.store.ungroup([])
    assert index.store.ungrouped() == [member]


async def test_rerank_compares_the_given_ids_and_no_others(built: Index) -> None:
    points = example_points(BUILT_POINTS)
    stranger = example_points(1, seed=9)[0].training_image_id
    ids = [point.training_image_id for point in points[10:30]]
    neighbours = await built.search.rerank(points[0].perceptual[:1], [*ids, stranger], 100)
    assert {one.training_image_id for one in neighbours} == set(ids)
    assert len(await built.search.rerank(points[0].perceptual[:1], ids, 7)) == 7
    assert await built.search.rerank(points[0].perceptual[:1], [], 7) == []


async def test_equal_distances_come_in_id_order(index: Index) -> None:
    copies = [replace(point, perceptual=example_points(1)[0].perceptual) for point in example_points(20)]
    index.store.create(EXAMPLE_IDENTITY)
    index.store.upsert(copies)
    ids = [copy.training_image_id for copy in copies]
    neighbours = await index.search.rerank(copies[0].perceptual[:1], ids, 5)
    assert [one.training_image_id for one in neighbours] == sorted(ids)[:5]


async def test_points_come_back_as_they_were_written(index: Index) -> None:
    payload = {"data_set": ["a"], "labels": ["x", "y"], "n": 3, "f": 1.5, "none": None, "deep": {"yes": True}}
    points = [replace(point, payload=payload) for point in example_points(300)]
    index.store.create(EXAMPLE_IDENTITY)
    index.store.upsert(points)
    stored = list(index.store.scan(with_vectors=True))
    expected = sorted(points, key=lambda point: point.training_image_id)
    assert [point.training_image_id for point in stored] == [point.training_image_id for point in expected]
    for one, other in zip(stored, expected, strict=True):
        assert one.payload == payload
        np.testing.assert_allclose(one.recall, other.recall, atol=1e-6)
        np.testing.assert_allclose(one.perceptual, other.perceptual, atol=1e-6)
    assert all(not point.recall.size and point.payload for point in index.store.scan())


async def test_local_features_are_read_only_where_they_are_needed(index: Index) -> None:
    points = example_points(40)
    featured = [with_local_features(point, example_features(9, seed)) for seed, point in enumerate(points)]
    index.store.create(EXAMPLE_IDENTITY)
    index.store.upsert(featured)
    ids = [point.training_image_id for point in points]
    index.store.join_data_set(ids[:2], "late")
    index.store.set_group(ids[:2], str(ids[0]))
    points_read: list[Point | Candidate] = [*index.store.scan(), *index.store.fetch(ids)]
    points_read += index.store.neighbours([points[0].recall], 40)[0]
    assert len(points_read) == 120
    assert not [point for point in points_read if KEY_LOCAL_FEATURES in point.payload]
    whole = {point.training_image_id: point.payload for point in index.store.scan(with_vectors=True)}
    expected = {point.training_image_id: point.payload[KEY_LOCAL_FEATURES] for point in featured}
    assert {work: payload[KEY_LOCAL_FEATURES] for work, payload in whole.items()} == expected


async def test_existing_tells_known_ids_from_unknown(built: Index) -> None:
    known = {point.training_image_id for point in example_points(BUILT_POINTS)}
    unknown = {point.training_image_id for point in example_points(300, seed=1)}
    assert built.store.existing([*unknown, *known]) == known
    assert built.store.existing([]) == set()


async def test_what_is_added_or_changed_later_is_found_at_once_and_built_later(index: Index) -> None:
    points = fill(index, 100)
    late, changed = example_points(50, seed=1), replace(points[0], recall=points[1].recall)
    index.store.upsert([*late, changed])
    for _ in ("before the build", "after it"):
        assert (await index.search.recall(late[3].recall, 1))[0].training_image_id == late[3].training_image_id
        twins = {one.training_image_id for one in await index.search.recall(points[1].recall, 2)}
        assert twins == {points[0].training_image_id, points[1].training_image_id}
        found = await index.search.recall(points[0].recall, 1000)
        assert {one.training_image_id for one in found} == {point.training_image_id for point in points + late}
        index.store.build()
    info = await index.search.info()
    assert (info.points, info.indexed_points, info.ready) == (150, 150, True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda vector: np.full_like(vector, np.nan),
        lambda vector: np.where(np.arange(vector.size).reshape(vector.shape) == 3, np.inf, vector),
        np.zeros_like,
        lambda vector: vector * 1.01,
        lambda vector: vector[:-1],
        lambda vector: np.stack([vector, vector]),
    ],
    ids=["nan", "infinite", "zero", "not of unit norm", "too short", "two of them"],
)
async def test_a_bad_vector_is_refused_before_anything_is_written(
    index: Index, damage: Callable[[Float32Array], Float32Array]
) -> None:
    good, bad = example_points(300), example_points(1, seed=1)[0]
    index.store.create(EXAMPLE_IDENTITY)
    for broken in (with_recall(bad, damage(bad.recall)), replace(bad, perceptual=damage(bad.perceptual))):
        with pytest.raises(InvalidVector, match=str(bad.training_image_id)):
            index.store.upsert([*good, broken])
    assert index.store.info().points == 0
    with pytest.raises(InvalidVector):
        await index.search.recall(damage(bad.recall), 5)
    with pytest.raises(InvalidVector):
        await index.search.rerank(damage(bad.perceptual[0])[None], [bad.training_image_id], 5)


async def test_closing_twice_is_harmless(index: Index) -> None:
    await index.search.close()
    await index.search.close()
