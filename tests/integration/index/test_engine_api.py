"""The engine answers a part of Qdrant's API, all of it as Qdrant does, and refuses the rest aloud."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import grpc
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as messages

from gmvaluator.errors import PreconditionFailed
from gmvaluator.index.engine.services import CollectionsService, HealthService, PointsService
from gmvaluator.index.engine.supported_api import CALLS
from gmvaluator.index.location import EmbeddedAccess, Endpoint, ServerAccess
from gmvaluator.index.qdrant import connect
from gmvaluator.index.store import QdrantStore

SMALL = {"recall": models.VectorParams(size=4, distance=models.Distance.COSINE)}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with closing(EmbeddedAccess(tmp_path_factory.mktemp("engine"))) as access:
        yield access.endpoint


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[QdrantClient]:
    with closing(connect(endpoint)) as opened:
        yield opened


@pytest.fixture
def name(client: QdrantClient) -> Iterator[str]:
    """A collection of three points."""
    name = str(uuid.uuid4())
    client.create_collection(name, vectors_config=SMALL, metadata={"a": 1})
    client.upsert(
        name,
        [
            models.PointStruct(id=1, vector={"recall": [1.0, 0, 0, 0]}, payload={"kind": "x", "n": 1, "ok": True}),
            models.PointStruct(id=2, vector={"recall": [0.0, 1, 0, 0]}, payload={"kind": "y", "n": 2}),
            models.PointStruct(id=str(uuid.UUID(int=3)), vector={"recall": [1.0, 1, 0, 0]}, payload={"kind": "x"}),
        ],
    )
    yield name
    client.delete_collection(name)


def refused(code: grpc.StatusCode, match: str = "") -> Any:
    class Refusal:
        def __enter__(self) -> None:
            self._raises = pytest.raises(grpc.RpcError)
            self._info = self._raises.__enter__()

        def __exit__(self, *failure: Any) -> bool:
            caught = bool(self._raises.__exit__(*failure))
            assert self._info.value.code() == code
            assert match in (self._info.value.details() or "")
            return caught

    return Refusal()


def test_every_listed_call_is_answered_and_no_other() -> None:
    for service, kind in (("Qdrant", HealthService), ("Collections", CollectionsService), ("Points", PointsService)):
        base = kind.__mro__[1]
        own = {name for name, value in vars(kind).items() if not name.startswith("_") and hasattr(base, name)}
        assert own == set(CALLS[f"qdrant.{service}"])


def test_a_wrong_key_is_refused(endpoint: Endpoint) -> None:
    for key in (None, "wrong"):
        with grpc.insecure_channel(endpoint.target) as channel:
            stub = messages.CollectionsStub(channel)  # type: ignore[no-untyped-call]
            with refused(grpc.StatusCode.UNAUTHENTICATED):
                stub.List(
                    messages.ListCollectionsRequest(), metadata=() if key is None else (("api-key", key),), timeout=10
                )
    with (
        closing(QdrantStore(ServerAccess(replace(endpoint, api_key="wrong")), "works")) as store,
        pytest.raises(PreconditionFailed, match="QDRANT_API_KEY"),
    ):
        store.info()


def test_a_call_that_is_not_listed_is_unimplemented(client: QdrantClient, name: str) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        client.facet(name, "kind")
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        client.create_snapshot(name)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prefetch": models.Prefetch(query=[1.0, 0, 0, 0], using="recall")}, "QueryPoints.prefetch"),
        ({"search_params": models.SearchParams(acorn=models.AcornSearchParams(enable=True))}, "SearchParams.acorn"),
        (
            {"query_filter": models.Filter(must=[models.IsNullCondition(is_null=models.PayloadField(key="n"))])},
            "Condition.is_null",
        ),
        (
            {"query_filter": models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gt=1))])},
            "FieldCondition.range",
        ),
        (
            {
                "query_filter": models.Filter(
                    must=[models.FieldCondition(key="ok", match=models.MatchValue(value=True))]
                )
            },
            "Match.boolean",
        ),
    ],
)
def test_a_field_that_is_not_listed_is_refused(
    client: QdrantClient, name: str, arguments: dict[str, Any], field: str
) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED, field):
        client.query_points(name, [1.0, 0, 0, 0], using="recall", **arguments)


def test_other_quantisation_is_refused_when_a_collection_is_made(client: QdrantClient) -> None:
    binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig())
    vectors = {"recall": models.VectorParams(size=4, distance=models.Distance.COSINE, quantization_config=binary)}
    with refused(grpc.StatusCode.UNIMPLEMENTED, "QuantizationConfig.binary"):
        client.create_collection("refused", vectors_config=vectors)
    with refused(grpc.StatusCode.UNIMPLEMENTED, "VectorsConfig.params"):
        client.create_collection("refused", vectors_config=SMALL["recall"])
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "collection name"):
        client.create_collection("../refused", vectors_config=SMALL)
    assert not client.collection_exists("refused")


@pytest.mark.parametrize("vector", [[1.0, 0, 0], [float("nan"), 0, 0, 0], [float("inf"), 0, 0, 0]])
def test_a_bad_vector_is_refused(client: QdrantClient, name: str, vector: list[float]) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "vector 'recall'"):
        client.upsert(name, [models.PointStruct(id=9, vector={"recall": vector})])
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "vector 'recall'"):
        client.query_points(name, vector, using="recall")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "needs the vectors recall"):
        client.upsert(name, [models.PointStruct(id=9, vector={})])
    assert client.count(name).count == 3


def test_collections_are_described_as_they_were_made(client: QdrantClient) -> None:
    product = models.ProductQuantization(
        product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X32, always_ram=True)
    )
    vectors = {
        "recall": models.VectorParams(
            size=8,
            distance=models.Distance.COSINE,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=8, ef_construct=64, full_scan_threshold=20),
            quantization_config=product,
        )
    }
    optimizers = models.OptimizersConfigDiff(default_segment_number=2, indexing_threshold=7, max_segment_size=9)
    client.create_collection("described", vectors_config=vectors, optimizers_config=optimizers, metadata={"a": [1]})
    config = client.get_collection("described").config
    assert config.params.vectors == vectors
    assert (config.optimizer_config.indexing_threshold, config.optimizer_config.default_segment_number) == (7, 2)
    client.update_collection("described", metadata={"b": {"c": None}})
    assert client.get_collection("described").config.metadata == {"a": [1], "b": {"c": None}}
    assert "described" in [one.name for one in client.get_collections().collections]
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        client.create_collection("described", vectors_config=SMALL)
    client.delete_collection("described")
    assert not client.collection_exists("described")
    with refused(grpc.StatusCode.NOT_FOUND):
        client.get_collection("described")


def test_filters_choose_points(client: QdrantClient, name: str) -> None:
    def ids(**conditions: Any) -> list[Any]:
        return [point.id for point in client.scroll(name, scroll_filter=models.Filter(**conditions))[0]]

    third = str(uuid.UUID(int=3))
    kind = models.FieldCondition(key="kind", match=models.MatchValue(value="x"))
    number = models.FieldCondition(key="n", match=models.MatchAny(any=[2, 3]))
    assert ids() == [1, 2, third]
    assert ids(must=[kind]) == [1, third]
    assert ids(must_not=[kind]) == [2]
    assert ids(should=[number, models.HasIdCondition(has_id=[third])]) == [2, third]
    assert ids(must=[models.Filter(must_not=[number])]) == [1, third]
    assert ids(must=[models.FieldCondition(key="kind", match=models.MatchAny(any=["y"]))]) == [2]
    assert client.count(name, count_filter=models.Filter(must=[kind])).count == 2


def test_queries_honour_what_they_ask_for(client: QdrantClient, name: str) -> None:
    def query(**arguments: Any) -> list[models.ScoredPoint]:
        return client.query_points(name, [1.0, 0, 0, 0], using="recall", **arguments).points

    third = str(uuid.UUID(int=3))
    assert [(one.id, round(one.score, 3)) for one in query()] == [(1, 1.0), (third, 0.707), (2, 0.0)]
    assert [one.id for one in query(limit=1, offset=1)] == [third]
    assert [one.id for one in query(score_threshold=0.5)] == [1, third]
    assert not query(with_payload=False)[0].payload
    assert query(with_payload=["kind"])[0].payload == {"kind": "x"}
    assert query(with_payload=models.PayloadSelectorExclude(exclude=["n", "ok"]))[0].payload == {"kind": "x"}
    assert query(with_vectors=True)[0].vector == {"recall": [1.0, 0, 0, 0]}
    asked = [models.QueryRequest(query=[0.0, 1, 0, 0], using="recall", limit=1)] * 2
    assert [one.points[0].id for one in client.query_batch_points(name, asked)] == [2, 2]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "no vector"):
        client.query_points(name, [1.0, 0, 0, 0], using="other")


def test_points_are_changed_and_deleted(client: QdrantClient, name: str) -> None:
    client.set_payload(name, {"new": "x"}, points=[1])
    kind = models.Filter(must=[models.FieldCondition(key="kind", match=models.MatchValue(value="x"))])
    client.set_payload(name, {"seen": 1}, points=kind)
    assert client.retrieve(name, [1])[0].payload == {"kind": "x", "n": 1, "ok": True, "new": "x", "seen": 1}
    client.delete(name, points_selector=[1])
    client.delete(name, points_selector=models.FilterSelector(filter=kind))
    assert [point.id for point in client.scroll(name)[0]] == [2]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "empty filter"):
        client.delete(name, points_selector=models.FilterSelector(filter=models.Filter()))


def test_payload_indexes_are_described(client: QdrantClient, name: str) -> None:
    client.create_payload_index(name, "kind", models.PayloadSchemaType.KEYWORD)
    schema = client.get_collection(name).payload_schema
    assert (schema["kind"].data_type, schema["kind"].points) == (models.PayloadSchemaType.KEYWORD, 3)


def test_pages_follow_one_another(client: QdrantClient, name: str) -> None:
    first, offset = client.scroll(name, limit=2)
    last, end = client.scroll(name, limit=2, offset=offset)
    assert [point.id for point in first + last] == [1, 2, str(uuid.UUID(int=3))]
    assert end is None


def test_health_names_the_engine(endpoint: Endpoint) -> None:
    with grpc.insecure_channel(endpoint.target) as channel:
        stub = messages.QdrantStub(channel)  # type: ignore[no-untyped-call]
        key = (("api-key", endpoint.api_key or ""),)
        assert "embedded" in stub.HealthCheck(messages.HealthCheckRequest(), metadata=key, timeout=10).title
