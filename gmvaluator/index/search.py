"""Asynchronous search of the index over grpc.aio: two calls per generated image, the hot path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, count
from typing import Any, TypeVar
from uuid import UUID

import grpc
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from gmvaluator.concurrency import shield_to_completion
from gmvaluator.errors import IndexFailed, IndexUnavailable
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.checksums import CHECKED, NORM_TOLERANCE
from gmvaluator.index.location import Access, Endpoint
from gmvaluator.index.qdrant import collection_info, search_parameters, translate_errors
from gmvaluator.index.resilient_client import backoff_s, is_retryable
from gmvaluator.index.schema import KEY_DATA_SET, PERCEPTUAL, RECALL, CollectionMetadata
from gmvaluator.index.server_checks import ServerChecks
from gmvaluator.index.vectors import checked_vector, damaged_work
from gmvaluator.ports import Candidate, CollectionInfo, Float32Array, Neighbour

CALL_TIMEOUT_S = 10.0
"""Deadline of one query including its retries, in seconds; a query usually takes 2 ms."""

_MAX_SIMILARITY = 1.0 + NORM_TOLERANCE
"""Upper limit of the cosine of two vectors of unit norm, with the error of their norms; nan exceeds it."""

MAX_DISTANCE = 2.0
"""Upper limit of perceptual distances, which are 1 - cosine."""

_TIES = 14
"""Neighbours requested beyond the k-th, to detect others at the same distance."""

# The same training images are recalled for many generated images.
_CACHED_IDS = 200_000
"""Size of the caches of parsed and encoded training image ids."""

_Response = TypeVar("_Response")
_Points = Sequence[messages.ScoredPoint]


@dataclass(frozen=True, slots=True)
class _Connection:
    """A gRPC channel to an endpoint, with its stubs."""

    endpoint: Endpoint
    channel: grpc.aio.Channel
    points: Any
    collections: Any

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return the keyword arguments of one call."""
        key = self.endpoint.api_key
        return {"timeout": timeout_s, "metadata": () if key is None else (("api-key", key),)}


@dataclass(frozen=True, slots=True)
class _Settings:
    """Dimensions and search parameters of the collection, as read from its metadata.

    checks_vectors: the index itself checks the stored vectors that it compares.
    """

    recall_dim: int
    perceptual_dim: int
    parameters: messages.SearchParams
    checks_vectors: bool


class QdrantSearch:
    """A search (`ports.CandidateSearch`) on a Qdrant server or an embedded engine, for one event loop.

    A query that finds the embedded engine dead restarts it and is sent again; other failures are retried as in
    `resilient_client`.
    """

    def __init__(self, access: Access, collection: str, payload_keys: Sequence[str] = ()) -> None:
        """payload_keys: payload entries to return with each candidate; none by default, which is fastest."""
        self._access = access
        self._collection = collection
        self._payload = messages.WithPayloadSelector(enable=False)
        self._candidate = _candidate_with_payload if payload_keys else _candidate
        if payload_keys:
            include = messages.PayloadIncludeSelector(fields=payload_keys)
            self._payload = messages.WithPayloadSelector(include=include)
        self._lock = asyncio.Lock()
        self._connection: _Connection | None = None
        self._retired: list[_Connection] = []
        self._settings: _Settings | None = None
        self._server_checks = ServerChecks(collection)

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """Return the `depth` nearest training images by `recall` vector (D,), nearest first.

        data_sets: restricts the search to images of these data sets. Raises InvalidVector, MissingIndex,
        IndexUnavailable, IndexFailed if the index returns an incomplete result.
        """
        settings = await self._get_settings()
        data = checked_vector(vector, settings.recall_dim, "the query")
        if data_sets is not None and not data_sets:
            return []
        request = messages.QueryPoints(
            collection_name=self._collection,
            query=_nearest(data),
            using=RECALL,
            limit=depth,
            params=settings.parameters,
            with_payload=self._payload,
            filter=None if data_sets is None else _in_data_sets(tuple(data_sets)),
        )
        points = await self._require_complete(request, await self._query(request), exact=True)
        # A server may return the merged results of its shards in any order.
        return sorted(map(self._candidate, points), key=_by_similarity)

    async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        """Return the k of `ids` nearest to any of `vectors` (Q, P), nearest first; ties in id order.

        Every stored image of `ids` is compared exactly. Raises the same errors as `recall`, and IndexFailed if the
        stored vectors of one of them are damaged.
        """
        settings = await self._get_settings()
        views = [checked_vector(vector, settings.perceptual_dim, "the query") for vector in vectors]
        if not ids or k < 1:
            return []
        if not settings.checks_vectors:
            await self._check_works(ids)
        requests = [self._comparison(view, ids, k) for view in views]
        results = zip(requests, await self._query_batch(requests), strict=True)
        # Each of the k nearest to all views together is among the k nearest to one of the views.
        neighbours = [await self._resolve_ties(request, points, ids, k) for request, points in results]
        nearest: dict[TrainingImageId, Neighbour] = {}
        for neighbour in chain.from_iterable(neighbours):
            known = nearest.setdefault(neighbour.training_image_id, neighbour)
            if neighbour.perceptual_distance < known.perceptual_distance:
                nearest[neighbour.training_image_id] = neighbour
        return sorted(nearest.values(), key=_by_distance)[:k]

    async def _check_works(self, ids: Sequence[TrainingImageId]) -> None:
        """Raise IndexFailed if the stored vectors of one of `ids` are damaged."""
        for request in self._server_checks.requests(ids):
            response = await self._call(partial(_get, request))
            self._server_checks.check(request, response.result)

    def _comparison(self, data: Float32Array, ids: Sequence[TrainingImageId], k: int) -> messages.QueryPoints:
        """Build the query for the k of `ids` nearest to one view, and `_TIES` more."""
        return messages.QueryPoints(
            collection_name=self._collection,
            query=_nearest(data),
            using=PERCEPTUAL,
            limit=min(k + _TIES, len(ids)),
            params=messages.SearchParams(exact=True),
            with_payload=messages.WithPayloadSelector(enable=False),
            filter=_among(ids),
        )

    async def _resolve_ties(
        self, request: messages.QueryPoints, points: _Points, ids: Sequence[TrainingImageId], k: int
    ) -> list[Neighbour]:
        """Return the complete result of `request`, including every neighbour at the distance of the k-th."""
        points = sorted(await self._require_complete(request, points), key=_by_score)
        if k < len(points) < len(ids) and points[k - 1].score == points[-1].score:
            # Ties reach the end of the result, and ids order them: all candidates are needed.
            request.limit = len(ids)
            points = await self._require_complete(request, await self._query(request))
        self._require_among(points, ids)
        return [_neighbour(point) for point in points]

    def _require_among(self, points: Sequence[messages.ScoredPoint], ids: Sequence[TrainingImageId]) -> None:
        """Raise IndexFailed if a result contains other images than the requested ones."""
        strange = {_id(point.id.uuid) for point in points}.difference(ids)
        if strange:
            raise IndexFailed(
                f"{self._subject} was asked to compare {len(ids)} works and answered {len(strange)} others, such as "
                f"{min(strange)}: see its log"
            )

    async def _require_complete(self, request: messages.QueryPoints, points: _Points, exact: bool = False) -> _Points:
        """Return `points` if they are the complete result of `request`, or the result of a second query.

        A result is complete if it holds as many works as the limit, or all that the filter selects. exact: compare
        every vector in the second query, because a graph may not reach all that a filter selects. Raises IndexFailed
        if that result is incomplete too.
        """
        # An incomplete result would leave the owners of the missing works without credit.
        works = _distinct_works(points)
        if works == request.limit or works >= await self._count(request):
            return points
        if exact:
            request.params.exact = True
        points = await self._query(request)
        expected = min(request.limit, await self._count(request))
        if _distinct_works(points) < expected:
            raise IndexFailed(
                f"{self._subject} answered {_distinct_works(points)} of {expected} works: a part of it is missing or "
                "does not answer; see its log"
            )
        return points

    async def _count(self, request: messages.QueryPoints) -> int:
        """Return the number of points that the filter of `request` selects."""
        selection = request.filter if request.HasField("filter") else None
        count = messages.CountPoints(collection_name=request.collection_name, filter=selection, exact=True)
        response = await self._call(lambda connection, options: connection.points.Count(count, **options))
        number: int = response.result.count
        return number

    async def info(self) -> CollectionInfo:
        """Return the collection's current state, not cached. Raises MissingIndex, IndexUnavailable."""
        request = messages.GetCollectionInfoRequest(collection_name=self._collection)
        calls: list[Any] = []

        def get(connection: _Connection, options: Mapping[str, Any]) -> Any:
            calls.append(connection.collections.Get(request, **options))
            return calls[-1]

        response = await self._call(get)
        info = collection_info(self._collection, GrpcToRest.convert_collection_info(response.result))
        self._settings = _settings_of(info, CHECKED in tuple(await calls[-1].trailing_metadata()))
        return info

    async def close(self) -> None:
        """Close the connections. An embedded engine ends after its last user. Idempotent."""
        for connection in filter(None, (*self._retired, self._connection)):
            await connection.channel.close()
        self._retired, self._connection = [], None
        self._access.close()

    async def _get_settings(self) -> _Settings:
        if self._settings is None:
            await self.info()
        assert self._settings is not None
        return self._settings

    async def _query(self, request: messages.QueryPoints) -> _Points:
        (points,) = await self._query_batch([request])
        return points

    async def _query_batch(self, requests: Sequence[messages.QueryPoints]) -> list[_Points]:
        """Return the result of each request, from a single call. Raises IndexFailed for results that cannot be used."""
        if len(requests) == 1:
            response = await self._call(lambda connection, options: connection.points.Query(requests[0], **options))
            results: list[_Points] = [response.result]
        else:
            batch = messages.QueryBatchPoints(collection_name=self._collection, query_points=requests)
            response = await self._call(lambda connection, options: connection.points.QueryBatch(batch, **options))
            results = [batch_result.result for batch_result in response.result]
        if len(results) != len(requests):
            raise IndexFailed(f"{self._subject} answered {len(results)} of {len(requests)} queries: see its log")
        impossible = [point for point in chain.from_iterable(results) if not abs(point.score) <= _MAX_SIMILARITY]
        if impossible:
            raise damaged_work(impossible[0].id.uuid, f"their similarity to an image is {impossible[0].score:.6g}")
        return results

    async def _call(self, call: Callable[[_Connection, Mapping[str, Any]], Awaitable[_Response]]) -> _Response:
        """Return the response of `call`; its retries and their backoff share one deadline."""
        connection = await self._connect(None)  # waits while another call restarts the engine
        deadline = time.monotonic() + CALL_TIMEOUT_S
        for attempt in count(1):
            try:
                with translate_errors(self._name(connection)):
                    # grpc.aio leaks the messages of cancelled calls.
                    return await shield_to_completion(call(connection, connection.options(deadline - time.monotonic())))
            except IndexUnavailable as error:
                broken, pause = connection, backoff_s(attempt)
                connection = await self._connect(broken)
                if connection is not broken and attempt == 1:
                    deadline = time.monotonic() + CALL_TIMEOUT_S  # the restart does not count against the query
                elif is_retryable(error, attempt) and time.monotonic() + pause < deadline:
                    await asyncio.sleep(pause)
                else:
                    raise
        raise AssertionError("unreachable")

    async def _connect(self, broken: _Connection | None) -> _Connection:
        """Return the connection in use, opened if there is none, or a new one if the engine of `broken` has moved."""
        async with self._lock:
            if self._connection is None:
                self._connection = _open(self._access.endpoint)
            elif self._connection is broken:
                endpoint = await asyncio.to_thread(self._access.renew, broken.endpoint)
                if endpoint != broken.endpoint:
                    self._retired.append(broken)  # closing it would cancel calls in flight
                    self._connection = _open(endpoint)
            return self._connection

    def _name(self, connection: _Connection) -> str:
        return f"the index at {connection.endpoint.target} (collection {self._collection!r})"

    @property
    def _subject(self) -> str:
        return (
            f"the index (collection {self._collection!r})" if self._connection is None else self._name(self._connection)
        )


def _open(endpoint: Endpoint) -> _Connection:
    options = [("grpc.max_receive_message_length", -1), *endpoint.channel_options.items()]
    if endpoint.tls:
        channel = grpc.aio.secure_channel(endpoint.target, grpc.ssl_channel_credentials(), options)
    else:
        channel = grpc.aio.insecure_channel(endpoint.target, options)
    points = messages.PointsStub(channel)  # type: ignore[no-untyped-call]
    collections = messages.CollectionsStub(channel)  # type: ignore[no-untyped-call]
    return _Connection(endpoint, channel, points, collections)


def _get(request: messages.GetPoints, connection: _Connection, options: Mapping[str, Any]) -> Any:
    return connection.points.Get(request, **options)


def _settings_of(info: CollectionInfo, checks_vectors: bool) -> _Settings:
    metadata = CollectionMetadata.from_dict(info.name, info.metadata)
    parameters = RestToGrpc.convert_search_params(search_parameters(metadata.search))
    return _Settings(metadata.profile.recall_dim, metadata.profile.perceptual_dim, parameters, checks_vectors)


def _nearest(data: Float32Array) -> messages.Query:
    return messages.Query(nearest=messages.VectorInput(dense=messages.DenseVector(data=data.tolist())))


@lru_cache(maxsize=64)
def _in_data_sets(data_sets: tuple[str, ...]) -> messages.Filter:
    match = messages.Match(keywords=messages.RepeatedStrings(strings=data_sets))
    condition = messages.Condition(field=messages.FieldCondition(key=KEY_DATA_SET, match=match))
    return messages.Filter(must=[condition])


def _among(ids: Sequence[TrainingImageId]) -> messages.Filter:
    # Protobuf messages of one type are merged by concatenating their bytes: each id is encoded once.
    condition = messages.HasIdCondition.FromString(b"".join(map(_encoded_has_id, ids)))
    return messages.Filter(must=[messages.Condition(has_id=condition)])


@lru_cache(maxsize=_CACHED_IDS)
def _id(text: str) -> TrainingImageId:
    return TrainingImageId(UUID(text))


@lru_cache(maxsize=_CACHED_IDS)
def _encoded_has_id(training_image_id: TrainingImageId) -> bytes:
    """Return a serialised HasIdCondition with one id."""
    point = messages.PointId(uuid=str(training_image_id))
    return bytes(messages.HasIdCondition(has_id=[point]).SerializeToString())


def _by_score(point: messages.ScoredPoint) -> float:
    return -point.score


def _by_similarity(candidate: Candidate) -> float:
    return -candidate.clip_similarity


def _distinct_works(points: Sequence[messages.ScoredPoint]) -> int:
    return len({point.id.uuid for point in points})


def _by_distance(neighbour: Neighbour) -> tuple[float, int]:
    return neighbour.perceptual_distance, neighbour.training_image_id.int


def _candidate(point: messages.ScoredPoint) -> Candidate:
    return Candidate(_id(point.id.uuid), min(max(point.score, -1.0), 1.0))


def _candidate_with_payload(point: messages.ScoredPoint) -> Candidate:
    if not point.payload:
        return _candidate(point)
    return _candidate(point)._replace(payload=GrpcToRest.convert_payload(point.payload))


def _neighbour(point: messages.ScoredPoint) -> Neighbour:
    return Neighbour(_id(point.id.uuid), min(max(1.0 - point.score, 0.0), MAX_DISTANCE))
