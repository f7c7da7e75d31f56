"""A collection is copied from one index to another: every point as it was, and no point twice."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gmvaluator.commands.main import gmvaluator
from gmvaluator.errors import IndexFailed, ProfileMismatch
from gmvaluator.index import copying
from gmvaluator.index.copying import copy_collection
from gmvaluator.index.schema import KEY_GROUP, CollectionMetadata
from gmvaluator.index.store import QdrantStore
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points
from tests.support.fault_proxy import fault_proxy
from tests.support.index_places import EMBEDDED_AND_SERVER, IndexPlace, index_place, new_name

POINTS = 300


@pytest.fixture
def source(tmp_path: Path) -> IndexPlace:
    """A built collection on the embedded engine."""
    place = IndexPlace(tmp_path / "source", "works")
    with closing(place.open_store("scalar")) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(POINTS))
        store.build()
    return place


@pytest.fixture(params=["addressed", *EMBEDDED_AND_SERVER])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexPlace]:
    """An empty index: the embedded engine by its folder and by its address as a server is, and a server."""
    if request.param != "addressed":
        with index_place(request, new_name()) as place:
            yield place
        return
    with (
        closing(IndexPlace(tmp_path / "target", "works").open_store()) as engine,
        fault_proxy(engine.endpoint) as proxy,
    ):
        yield IndexPlace(proxy.endpoint.target, new_name(), engine.endpoint.api_key)


def copied(source: IndexPlace, target: IndexPlace, *words: str) -> Result:
    """`gmvaluator index copy`."""
    command = ["index", "copy", "--from", str(source.location), "--collection", source.collection, "--json"]
    command += ["--to", str(target.location), "--to-collection", target.collection, *words]
    return CliRunner().invoke(gmvaluator, command, env={"QDRANT_API_KEY": target.api_key or source.api_key or ""})


def require_equal(one: QdrantStore, other: QdrantStore) -> None:
    """The same points with the same bytes."""
    for point, twin in zip(one.scan(with_vectors=True), other.scan(with_vectors=True), strict=True):
        assert (point.training_image_id, point.payload) == (twin.training_image_id, twin.payload)
        assert (point.recall == twin.recall).all()
        assert (point.perceptual == twin.perceptual).all()


def test_a_collection_goes_there_and_back(source: IndexPlace, target: IndexPlace, tmp_path: Path) -> None:
    there = copied(source, target)
    assert there.exit_code == 0, there.output
    figures = json.loads(there.stdout)
    assert (figures["points"], figures["written"], figures["target_points"]) == (POINTS, POINTS, POINTS)
    assert figures["figures"]["recall_at_50"] >= 0.98
    with closing(source.open_store()) as one, closing(target.open_store()) as other:
        require_equal(one, other)
        assert CollectionMetadata.from_dict("copy", other.info().metadata).quantisation == "scalar"
        assert (other.info().indexed_points, other.info().ready) == (POINTS, True)
    back = IndexPlace(tmp_path / "back", "works")
    command = ["index", "copy", "--from", str(target.location), "--collection", target.collection, "--json"]
    command += ["--to", str(back.location), "--to-collection", "works"]
    done = CliRunner().invoke(gmvaluator, command, env={"QDRANT_API_KEY": target.api_key or ""})
    assert done.exit_code == 0, done.output
    with closing(source.open_store()) as one, closing(back.open_store()) as other:
        require_equal(one, other)


def test_a_copy_is_continued_and_brings_what_changed(source: IndexPlace, tmp_path: Path) -> None:
    target = IndexPlace(tmp_path / "target", "works")
    with closing(source.open_store()) as one, closing(target.open_store()) as other:
        other.create(EXAMPLE_IDENTITY)
        other.upsert(example_points(POINTS)[:100])
        assert copy_collection(one, other).written == POINTS - 100
        work = example_points(1)[0].training_image_id
        one.set_group([work], "its group")
        one.upsert(example_points(2, seed=8))
        result = copy_collection(one, other)
        assert (result.points, result.written, result.target_points) == (POINTS + 2, 3, POINTS + 2)
        assert other.fetch_payloads([work])[0].payload[KEY_GROUP] == "its group"
        assert copy_collection(one, other).written == 0


def test_a_source_that_never_rests_and_another_profile_are_refused(
    source: IndexPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = IndexPlace(tmp_path / "target", "works")
    with closing(source.open_store()) as one, closing(target.open_store()) as other:
        with monkeypatch.context() as patched:
            patched.setattr(copying, "copy_missing", lambda *_, **__: 1)
            with pytest.raises(IndexFailed, match="when nobody indexes"):
                copy_collection(one, other)
        with closing(replace(target, collection="foreign").open_store()) as foreign:
            foreign.create(replace(EXAMPLE_IDENTITY, name="other", precision="bf16"))
            with pytest.raises(ProfileMismatch):
                copy_collection(one, foreign)


def test_what_is_no_index_or_the_same_is_refused(source: IndexPlace, tmp_path: Path) -> None:
    absent = copied(IndexPlace(tmp_path / "absent", "works"), IndexPlace(tmp_path / "target", "works"))
    assert "there is no index in" in str(absent.exception) + absent.output
    assert not (tmp_path / "target").exists()
    same = copied(source, replace(source, location=f"{source.location}/"))
    assert "name the same collection" in str(same.exception) + same.output
