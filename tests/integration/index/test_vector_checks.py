"""Vectors are checked on their way out of the index as well: by whatever they got in, nobody is paid by them."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as messages

from gmvaluator.errors import IndexFailed, InvalidVector
from gmvaluator.index.location import ServerAccess
from gmvaluator.index.opening import open_store
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.server_checks import ServerChecks
from gmvaluator.index.store import QdrantStore
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points
from tests.support.fault_proxy import fault_proxy
from tests.support.index_places import SERVER, IndexPlace, index_place, new_name

COLLECTION = new_name()


@pytest.fixture(params=["embedded", "addressed", SERVER])
def opened(request: pytest.FixtureRequest) -> Iterator[QdrantStore]:
    """Twenty points: on an engine, reached by its folder and by its address as a server is, and on a server."""
    with opened_place(request) as place, closing(place.open_store()) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(20))
        yield store


@contextmanager
def opened_place(request: pytest.FixtureRequest) -> Iterator[IndexPlace]:
    if request.param == "server":
        with index_place(request, COLLECTION) as place:
            yield place
        return
    folder: Path = request.getfixturevalue("tmp_path")
    with closing(open_store(folder)) as embedded, fault_proxy(embedded.endpoint) as proxy:
        location = folder if request.param == "embedded" else proxy.endpoint.target
        yield IndexPlace(location, COLLECTION, embedded.endpoint.api_key)


DAMAGES: Mapping[str, Any] = {
    "nan": [float("nan")] * 64,
    "infinite": [float("inf"), *[0.0] * 63],
    "not of unit norm": [0.5] * 64,
    "too short": [1.0],
    "absent": [],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_stored_vector_that_is_broken_is_named(
    opened: QdrantStore, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server would answer it that somebody else wrote to."""
    call = IndexConnection.call

    def broken(self: IndexConnection, ask: Any) -> Any:
        answer = call(self, ask)
        records = answer[0] if isinstance(answer, tuple) else answer
        for record in records if isinstance(records, list) else ():
            if isinstance(record, models.Record) and isinstance(record.vector, dict):
                record.vector["recall"] = DAMAGES[damage]
        return answer

    opened.metadata()
    monkeypatch.setattr(IndexConnection, "call", broken)
    monkeypatch.setattr(opened, "_call", opened.connection.call)
    ids = sorted(point.training_image_id for point in example_points(20))
    with pytest.raises(IndexFailed, match=str(ids[0])):
        opened.fetch(ids[:1])
    with pytest.raises(IndexFailed, match=str(ids[0])):
        list(opened.scan(with_vectors=True))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1.002, -1.002])
async def test_a_similarity_that_cannot_be_pays_nobody(
    opened: QdrantStore, score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = QdrantSearch(ServerAccess(opened.endpoint), COLLECTION)
    point = example_points(1)[0]
    assert await search.recall(point.recall, 3)
    one = SimpleNamespace(result=[messages.ScoredPoint(score=0.5), messages.ScoredPoint(score=score)])
    several = SimpleNamespace(result=[one] * len(point.perceptual))

    def answering(answer: object) -> Any:
        async def ask(_call: object) -> object:
            return answer

        return ask

    with monkeypatch.context() as patched:
        patched.setattr(ServerChecks, "requests", lambda *_: ())
        patched.setattr(search, "_call", answering(one))
        with pytest.raises(IndexFailed, match="similarity to an image is"):
            await search.recall(point.recall, 3)
        patched.setattr(search, "_call", answering(several))
        with pytest.raises(IndexFailed, match="similarity to an image is"):
            await search.rerank(point.perceptual, [point.training_image_id], 3)
    await search.close()


# A server stores such a vector: there the writer's check and the reader's, above, are the only ones.
@pytest.mark.parametrize("opened", ["embedded", "addressed"], indirect=True)
def test_the_engine_refuses_what_is_not_finite_by_itself(opened: QdrantStore) -> None:
    point = example_points(1, seed=3)[0]
    bad = np.where(np.arange(64) == 5, np.nan, point.recall)
    struct = models.PointStruct(
        id=str(point.training_image_id),
        vector={"recall": bad.tolist(), "perceptual": point.perceptual.tolist()},
    )

    def write(client: QdrantClient) -> object:
        return client.upsert(COLLECTION, [struct], wait=True)

    with pytest.raises(InvalidVector.__mro__[1], match="finite"):
        opened.connection.call(write)
    assert opened.info().points == 20
