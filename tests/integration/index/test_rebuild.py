"""A collection is rebuilt beside the one that serves and swapped in whole, and nothing of what was removed is in it."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.errors import PreconditionFailed
from gmvaluator.index import rebuild as rebuilding
from gmvaluator.index.collections import (
    aliases,
    collection_names,
    generation_name,
    generations,
    make_collection,
    point_alias,
)
from gmvaluator.index.copying import PointFilter
from gmvaluator.index.engine.launcher import Contact
from gmvaluator.index.location import open_access
from gmvaluator.index.opening import list_collections, open_search, open_store
from gmvaluator.index.qdrant import connect
from gmvaluator.index.rebuild import rebuild
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import KEY_GROUP, KEY_LOCAL_FEATURES, CollectionMetadata, IndexSettings
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Point
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_features, example_points, with_local_features
from tests.support.fault_proxy import fault_proxy
from tests.support.index_places import EMBEDDED_AND_SERVER, IndexPlace, index_place, new_name
from tests.support.live_files import stored_files

POINTS = 60
WORKS = [with_local_features(point, example_features(5, seed)) for seed, point in enumerate(example_points(POINTS))]
CANARY = replace(
    example_points(1, seed=77)[0],
    payload={
        "key": "canary-key-77",
        "title": "Canary title",
        "data_set": [],
        KEY_LOCAL_FEATURES: example_features(20, seed=77).to_text(),
    },
)
NEEDLES = [
    b"canary-key-77",
    b"Canary title",
    CANARY.payload[KEY_LOCAL_FEATURES].encode(),
    CANARY.recall.tobytes(),
    CANARY.perceptual[0].tobytes(),
    CANARY.training_image_id.bytes,
    str(CANARY.training_image_id).encode(),
]
ENGINE_KILLS = 2


def filled(store: QdrantStore) -> None:
    """A built collection that held the canary until it was removed."""
    store.create(EXAMPLE_IDENTITY)
    store.upsert([*WORKS, CANARY])
    store.build()
    store.remove([CANARY.training_image_id])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def store(folder: Path) -> Iterator[QdrantStore]:
    with closing(open_store(folder)) as opened:
        filled(opened)
        yield opened


def traces(folder: Path) -> list[str]:
    """Files that hold a byte sequence of the canary's."""
    return [path.name for path, content in stored_files(folder) if any(needle in content for needle in NEEDLES)]


def require_whole(store: QdrantStore) -> None:
    """Exactly the points that were not removed, as they were written, and quantised."""
    stored = list(store.scan(with_vectors=True))
    expected = sorted(WORKS, key=lambda point: point.training_image_id)
    assert [point.training_image_id for point in stored] == [point.training_image_id for point in expected]
    assert all((one.recall == other.recall).all() for one, other in zip(stored, expected, strict=True))
    assert [point.payload for point in stored] == [point.payload for point in expected]
    info = store.info()
    assert (info.points, info.indexed_points, info.ready) == (POINTS, POINTS, True)


def test_nothing_is_left_of_what_was_removed(folder: Path, store: QdrantStore) -> None:
    assert traces(folder)
    rebuild(open_access(folder), "works")
    require_whole(store)
    assert traces(folder) == []
    assert [path.name for path in (folder / "works").glob("generation-*")] == ["generation-3"]


def test_other_settings_are_those_of_the_new_generation(folder: Path, store: QdrantStore) -> None:
    settings = IndexSettings(hnsw_m=24, hnsw_ef_construct=64, on_disk=False)
    rebuild(open_access(folder), "works", "scalar", settings)
    metadata = CollectionMetadata.from_dict("works", store.info().metadata)
    assert (metadata.quantisation, metadata.settings, metadata.measured) == ("scalar", settings, None)
    with closing(connect(store.endpoint)) as client:
        vectors = client.get_collection("works").config.params.vectors
    assert isinstance(vectors, dict)
    recall = vectors["recall"]
    assert isinstance(recall.quantization_config, models.ScalarQuantization)
    assert recall.hnsw_config is not None
    assert (recall.hnsw_config.m, recall.hnsw_config.ef_construct, recall.on_disk) == (24, 64, False)
    require_whole(store)


async def test_searches_are_answered_and_writes_kept_meanwhile(folder: Path, store: QdrantStore) -> None:
    points, late = example_points(POINTS), example_points(30, seed=5)
    done = threading.Event()

    def run() -> None:
        rebuild(open_access(folder), "works")
        done.set()

    search = open_search(folder)
    thread = threading.Thread(target=run)
    thread.start()
    answered = 0
    while not done.is_set():
        query = points[answered % POINTS]
        assert (await search.recall(query.recall, 3))[0].training_image_id == query.training_image_id
        if answered < len(late):
            store.upsert([late[answered]])
        answered += 1
    thread.join()
    await search.close()
    assert answered
    written = {point.training_image_id for point in late[:answered]}
    assert store.existing(sorted(written)) == written


def test_an_engine_killed_at_any_moment_serves_one_generation_and_ends_the_rebuild(
    folder: Path, store: QdrantStore
) -> None:
    for seed in range(ENGINE_KILLS):
        thread = threading.Thread(target=lambda: rebuild(open_access(folder), "works"))
        thread.start()
        time.sleep(random.Random(seed).uniform(0, 1.5))
        contact = Contact.read(folder)
        assert contact is not None
        os.kill(contact.pid, signal.SIGKILL)
        assert store.existing([point.training_image_id for point in example_points(POINTS)])
        thread.join()
        require_whole(store)
        assert traces(folder) == []
        store.upsert([CANARY])
        store.remove([CANARY.training_image_id])


def test_a_command_killed_at_any_moment_can_be_given_again(folder: Path, store: QdrantStore) -> None:
    script = (
        "import sys; from pathlib import Path; from gmvaluator.index.location import open_access; "
        "from gmvaluator.index.rebuild import rebuild; "
        "print(flush=True); rebuild(open_access(Path(sys.argv[1])), 'works')"
    )
    for delay_s in (0.1, 0.7):
        command = [sys.executable, "-c", script, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=own_environment()) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay_s)
            process.kill()
        assert len(list(store.scan())) == POINTS
    rebuild(open_access(folder), "works")
    require_whole(store)
    assert traces(folder) == []


class Killed(Exception):
    """The command ended here."""


@pytest.fixture(params=EMBEDDED_AND_SERVER)
def served(request: pytest.FixtureRequest) -> Iterator[IndexPlace]:
    """A server, or an engine reached as a server is: by address and key; on one, aliases are what is served."""
    with index_place(request, new_name()) as place:
        if request.param == "server":
            yield place
            return
        with closing(place.open_store()) as store, fault_proxy(store.endpoint) as proxy:
            yield IndexPlace(proxy.endpoint.target, place.collection, store.endpoint.api_key)


def swap_in(place: IndexPlace, quantisation: str | None = None, kept: PointFilter = lambda points: points) -> None:
    """Rebuild the collection at `place`."""
    rebuild(open_access(place.location, place.api_key), place.collection, quantisation, kept=kept)


def serving(place: IndexPlace, store: QdrantStore) -> str | None:
    """The collection behind the name."""
    return aliases(store.connection).get(place.collection)


def test_a_server_s_collection_is_swapped_by_its_alias(served: IndexPlace) -> None:
    name = served.collection
    with closing(served.open_store()) as store:
        filled(store)
        assert serving(served, store) == f"{name}_1"
        swap_in(served, "pq-x32")
        assert serving(served, store) == f"{name}_2"
        assert CollectionMetadata.from_dict(name, store.info().metadata).quantisation == "pq-x32"
        require_whole(store)
        assert list(generations(store.connection, name)) == [f"{name}_2"]
    listed = list_collections(served.location, api_key=served.api_key)
    assert (name in listed, f"{name}_2" in listed) == (True, False)


def test_a_swap_killed_at_any_call_leaves_one_whole_and_can_be_repeated(
    served: IndexPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nth call to the server is the last that the command makes, for n until it ends by itself."""
    call = IndexConnection.call
    with closing(served.open_store()) as store:
        filled(store)
        calls = 0
        for last in range(1, 200, 13):
            calls = 0

            def counted(self: IndexConnection, ask: Callable[[QdrantClient], object], last: int = last) -> object:
                nonlocal calls
                calls += 1
                if calls > last:
                    raise Killed
                return call(self, ask)

            with monkeypatch.context() as patched:
                patched.setattr(IndexConnection, "call", counted)
                try:
                    swap_in(served)
                except Killed:
                    pass
                else:
                    break
            assert {point.training_image_id for point in store.scan()} == {
                point.training_image_id for point in example_points(POINTS)
            }
        assert 10 < calls <= last
        require_whole(store)
        assert serving(served, store) in generations(store.connection, served.collection)
        assert len(generations(store.connection, served.collection)) == 1


def test_a_collection_of_somebody_else_is_left_alone(served: IndexPlace) -> None:
    """Its name is that of a generation, and it is none."""
    with closing(served.open_store()) as store:
        filled(store)
        foreign = generation_name(served.collection, 5)
        make_collection(store.connection, foreign, CollectionMetadata(EXAMPLE_IDENTITY))
        swap_in(served)
        assert serving(served, store) == generation_name(served.collection, 6)
        assert foreign in collection_names(store.connection)


def test_what_must_not_be_copied_is_not(served: IndexPlace) -> None:
    first = example_points(1)[0].training_image_id

    def kept(points: Sequence[Point]) -> Sequence[Point]:
        return [point for point in points if point.training_image_id != first]

    with closing(served.open_store()) as store:
        filled(store)
        swap_in(served, kept=kept)
        assert store.info().points == POINTS - 1
        assert store.existing([first]) == set()


def test_what_others_write_around_the_swap_is_kept(served: IndexPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """They write to the old collection until the alias moves, and to the new one from then on."""
    points, (late,) = example_points(POINTS), example_points(1, seed=5)
    features = example_features(9)
    one, other, grouped, gone = (point.training_image_id for point in points[:4])
    buried: set[uuid.UUID] = set()

    def kept(batch: Sequence[Point]) -> Sequence[Point]:
        return [point for point in batch if point.training_image_id not in buried]

    with closing(served.open_store()) as store:
        filled(store)

        def swap(connection: IndexConnection, alias: str, collection: str) -> None:
            store.upsert([with_local_features(late, features)])
            store.join_data_set([one, other], "before")
            buried.add(gone)
            store.remove([gone])
            point_alias(connection, alias, collection)
            store.join_data_set([one], "after")
            store.set_group([grouped], "its group")

        monkeypatch.setattr(rebuilding, "point_alias", swap)
        swap_in(served, kept=kept)
        stored = {point.training_image_id: point.payload for point in store.scan()}
        (copied,) = store.fetch([late.training_image_id], local_features=True)
    assert copied.payload == with_local_features(late, features).payload
    assert stored.keys() == {point.training_image_id for point in [*points, late]} - {gone}
    assert stored[late.training_image_id] == late.payload
    assert set(stored[one]["data_set"]) == {*points[0].payload["data_set"], "before", "after"}
    assert set(stored[other]["data_set"]) == {*points[1].payload["data_set"], "before"}
    assert stored[grouped] == {**points[2].payload, KEY_GROUP: "its group"}


def test_what_was_written_before_a_swap_that_was_killed_is_brought_by_the_next(
    served: IndexPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (late,) = example_points(1, seed=5)
    with closing(served.open_store()) as store:
        filled(store)

        def swap(connection: IndexConnection, alias: str, collection: str) -> None:
            store.upsert([late])
            point_alias(connection, alias, collection)
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(rebuilding, "point_alias", swap)
            with pytest.raises(Killed):
                swap_in(served)
        assert store.existing([late.training_image_id]) == set()
        swap_in(served)
        assert store.existing([late.training_image_id]) == {late.training_image_id}
        assert store.info().points == POINTS + 1
        assert len(generations(store.connection, served.collection)) == 1


def test_a_server_s_collection_without_an_alias_is_refused(served: IndexPlace) -> None:
    bare = generation_name(served.collection, 1)
    with closing(served.open_store()) as store:
        make_collection(store.connection, bare, CollectionMetadata(EXAMPLE_IDENTITY))
        with pytest.raises(PreconditionFailed, match="index export"):
            rebuild(open_access(served.location, served.api_key), bare)


def test_an_alias_outlives_the_engine_and_goes_with_its_collection(folder: Path, store: QdrantStore) -> None:
    name = f"other-{uuid.uuid4()}"
    with closing(connect(store.endpoint)) as client:
        create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="works", alias_name=name))
        client.update_collection_aliases([create])
    contact = Contact.read(folder)
    assert contact is not None
    os.kill(contact.pid, signal.SIGKILL)
    with closing(open_store(folder, name)) as by_alias:
        assert by_alias.info().points == POINTS
        with closing(connect(by_alias.endpoint)) as client:
            assert [one.alias_name for one in client.get_collection_aliases("works").aliases] == [name]
            client.delete_collection("works")
            assert client.get_aliases().aliases == []
