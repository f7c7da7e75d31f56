"""The reading side of the index: two calls per image over grpc.aio, the hot path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from math import isfinite
from typing import Any, TypeVar
from uuid import UUID

import grpc
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from gmvaluator.concurrency import shield_to_completion
from gmvaluator.errors import IndexFailed, IndexUnavailable
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.location import Access, Endpoint
from gmvaluator.index.qdrant import collection_info, search_parameters, translated
from gmvaluator.index.resilient_client import may_be_repeated, pause_s
from gmvaluator.index.schema import KEY_DATA_SET, PERCEPTUAL, RECALL, CollectionMetadata
from gmvaluator.index.vectors import checked_vector
from gmvaluator.ports import Candidate, CollectionInfo, Float32Array, Neighbour

CALL_TIMEOUT_S = 10.0
"""Deadline of one query, with all its attempts; 2 ms is usual."""

MAX_DISTANCE = 2.0
_TIES = 14
"""Candidates asked for after the last that counts, to see whether it has equals."""

_KNOWN_IDS = 200_000
"""Training images whose id is kept as text and as UUID: the same ones come again and again."""

_Answer = TypeVar("_Answer")
_Points = Sequence[messages.ScoredPoint]


@dataclass(frozen=True, slots=True)
class _Connection:
    endpoint: Endpoint
    channel: grpc.aio.Channel
    points: Any
    collections: Any

    def options(self, timeout_s: float) -> dict[str, Any]:
        key = self.endpoint.api_key
        return {"timeout": timeout_s, "metadata": () if key is None else (("api-key", key),)}


@dataclass(frozen=True, slots=True)
class _Settings:
    recall_dim: int
    perceptual_dim: int
    parameters: messages.SearchParams


class QdrantSearch:
    """ports.CandidateSearch on a Qdrant server or on an embedded engine; belongs to one event loop.

    A query that finds the embedded engine dead starts another one and is sent once more; see `retrying` for the rest.
    """

    def __init__(self, access: Access, collection: str, payload_keys: Sequence[str] = ()) -> None:
        """payload_keys: what candidates bring of their payload; nothing by default, which is fastest."""
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

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """The `depth` nearest training images by `recall` vector, nearest first; only of `data_sets` if given.

        Raises InvalidVector, MissingIndex, IndexUnavailable, IndexFailed if it gets a part of the answer only.
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
        points = await self._whole(request, await self._answer(request), exact=True)
        # A server that merges its shards' answers late might send them in any order; the first is to be the nearest.
        return sorted(map(self._candidate, points), key=_by_similarity)

    async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        """The k of `ids` nearest to any of `vectors` (Q, P), nearest first; equal distances in id order.

        Every one of `ids` that is there is compared exactly. Raises what `recall` raises.
        """
        settings = await self._get_settings()
        views = [checked_vector(vector, settings.perceptual_dim, "the query") for vector in vectors]
        if not ids or k < 1:
            return []
        requests = [self._comparison(view, ids, k) for view in views]
        # Whatever is among the k nearest to all views together is among those to one of them.
        found = [await self._settled(*one, ids, k) for one in zip(requests, await self._answers(requests), strict=True)]
        nearest: dict[TrainingImageId, Neighbour] = {}
        for one in chain.from_iterable(found):
            known = nearest.setdefault(one.training_image_id, one)
            if one.perceptual_distance < known.perceptual_distance:
                nearest[one.training_image_id] = one
        return sorted(nearest.values(), key=_by_distance)[:k]

    def _comparison(self, data: Float32Array, ids: Sequence[TrainingImageId], k: int) -> messages.QueryPoints:
        """The k of `ids` nearest to one view, and some more."""
        return messages.QueryPoints(
            collection_name=self._collection,
            query=_nearest(data),
            using=PERCEPTUAL,
            limit=min(k + _TIES, len(ids)),
            params=messages.SearchParams(exact=True),
            with_payload=messages.WithPayloadSelector(enable=False),
            filter=_among(ids),
        )

    async def _settled(
        self, request: messages.QueryPoints, points: _Points, ids: Sequence[TrainingImageId], k: int
    ) -> list[Neighbour]:
        """What `request` found, whole, with everything that is as near as the k-th."""
        points = sorted(await self._whole(request, points), key=_by_score)
        if k < len(points) < len(ids) and points[k - 1].score == points[-1].score:
            # More than were asked for are as near as the last that counts: the id settles it, so all are needed.
            request.limit = len(ids)
            points = await self._whole(request, await self._answer(request))
        self._require_among(points, ids)
        return [_neighbour(point) for point in points]

    def _require_among(self, points: Sequence[messages.ScoredPoint], ids: Sequence[TrainingImageId]) -> None:
        """Raise IndexFailed if an answer is to another question."""
        strange = {_id(point.id.uuid) for point in points}.difference(ids)
        if strange:
            raise IndexFailed(
                f"{self._subject} was asked to compare {len(ids)} works and answered {len(strange)} others, such as "
                f"{min(strange)}: see its log"
            )

    async def _whole(self, request: messages.QueryPoints, found: _Points, exact: bool = False) -> _Points:
        """`found` if it is the whole answer to `request`: as many works as it asks for, or all there are; else it is
        asked once more.

        exact: ask then by comparing everything, as a graph may not reach all that a filter leaves. Raises IndexFailed
        if the answer is still a part: by it, the owners of what is missing would get nothing.
        """
        works = _different(found)
        if works == request.limit or works >= await self._count(request):
            return found
        if exact:
            request.params.exact = True
        found = await self._answer(request)
        wanted = min(request.limit, await self._count(request))
        if _different(found) < wanted:
            raise IndexFailed(
                f"{self._subject} answered {_different(found)} of {wanted} works: a part of it is missing or does not "
                "answer; see its log"
            )
        return found

    async def _count(self, request: messages.QueryPoints) -> int:
        """Points that `request` chooses from."""
        chosen = request.filter if request.HasField("filter") else None
        wanted = messages.CountPoints(collection_name=request.collection_name, filter=chosen, exact=True)
        answer = await self._ask(lambda to, options: to.points.Count(wanted, **options))
        number: int = answer.result.count
        return number

    async def info(self) -> CollectionInfo:
        """State of the collection, asked anew. Raises MissingIndex, IndexUnavailable."""
        request = messages.GetCollectionInfoRequest(collection_name=self._collection)
        answer = await self._ask(lambda to, options: to.collections.Get(request, **options))
        info = collection_info(self._collection, GrpcToRest.convert_collection_info(answer.result))
        self._settings = _settings_of(info)
        return info

    async def close(self) -> None:
        """Let go of the index; an embedded engine ends when nobody else holds it. Harmless when done twice."""
        for connection in filter(None, (*self._retired, self._connection)):
            await connection.channel.close()
        self._retired, self._connection = [], None
        self._access.close()

    async def _get_settings(self) -> _Settings:
        if self._settings is None:
            await self.info()
        assert self._settings is not None
        return self._settings

    async def _answer(self, request: messages.QueryPoints) -> _Points:
        (found,) = await self._answers([request])
        return found

    async def _answers(self, requests: Sequence[messages.QueryPoints]) -> list[_Points]:
        """What each of some requests finds; all in one call."""
        if len(requests) == 1:
            answer = await self._ask(lambda to, options: to.points.Query(requests[0], **options))
            found: list[_Points] = [answer.result]
        else:
            batch = messages.QueryBatchPoints(collection_name=self._collection, query_points=requests)
            answer = await self._ask(lambda to, options: to.points.QueryBatch(batch, **options))
            found = [one.result for one in answer.result]
        if len(found) != len(requests):
            raise IndexFailed(f"{self._subject} answered {len(found)} of {len(requests)} queries: see its log")
        if not all(isfinite(point.score) for point in chain.from_iterable(found)):
            raise IndexFailed(
                f"collection {self._collection!r} answers similarities that are no numbers: one of its vectors was "
                "written past the product; `gmvaluator index export` names it"
            )
        return found

    async def _ask(self, call: Callable[[_Connection, Mapping[str, Any]], Awaitable[_Answer]]) -> _Answer:
        """Answer of `call`; everything, repeats and their pauses too, within one deadline."""
        connection = await self._connect(None)  # waits while another call has the engine started
        deadline = time.monotonic() + CALL_TIMEOUT_S
        for attempt in count(1):
            try:
                with translated(self._name(connection)):
                    return await shield_to_completion(call(connection, connection.options(deadline - time.monotonic())))
            except IndexUnavailable as error:
                broken, pause = connection, pause_s(attempt)
                connection = await self._connect(broken)
                if connection is not broken and attempt == 1:
                    deadline = time.monotonic() + CALL_TIMEOUT_S  # starting an engine takes as long as it takes
                elif may_be_repeated(error, attempt) and time.monotonic() + pause < deadline:
                    await asyncio.sleep(pause)
                else:
                    raise
        raise AssertionError("unreachable")

    async def _connect(self, broken: _Connection | None) -> _Connection:
        """The connection in use, made if there is none; another one if `broken` is in use and its engine has moved."""
        async with self._lock:
            if self._connection is None:
                self._connection = _open(self._access.endpoint)
            elif self._connection is broken:
                endpoint = await asyncio.to_thread(self._access.renew, broken.endpoint)
                if endpoint != broken.endpoint:
                    self._retired.append(broken)  # closing it would cancel the calls that are under way
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


def _settings_of(info: CollectionInfo) -> _Settings:
    metadata = CollectionMetadata.from_dict(info.name, info.metadata)
    parameters = RestToGrpc.convert_search_params(search_parameters(metadata.search))
    return _Settings(metadata.profile.recall_dim, metadata.profile.perceptual_dim, parameters)


def _nearest(data: Float32Array) -> messages.Query:
    return messages.Query(nearest=messages.VectorInput(dense=messages.DenseVector(data=data.tolist())))


@lru_cache(maxsize=64)
def _in_data_sets(data_sets: tuple[str, ...]) -> messages.Filter:
    match = messages.Match(keywords=messages.RepeatedStrings(strings=data_sets))
    condition = messages.Condition(field=messages.FieldCondition(key=KEY_DATA_SET, match=match))
    return messages.Filter(must=[condition])


def _among(ids: Sequence[TrainingImageId]) -> messages.Filter:
    wanted = messages.HasIdCondition.FromString(b"".join(map(_has_id_wire, ids)))
    return messages.Filter(must=[messages.Condition(has_id=wanted)])


@lru_cache(maxsize=_KNOWN_IDS)
def _id(text: str) -> TrainingImageId:
    return TrainingImageId(UUID(text))


@lru_cache(maxsize=_KNOWN_IDS)
def _has_id_wire(training_image_id: TrainingImageId) -> bytes:
    """One id of a HasIdCondition as the wire has it: messages of the same kind are joined by joining their bytes."""
    point = messages.PointId(uuid=str(training_image_id))
    return bytes(messages.HasIdCondition(has_id=[point]).SerializeToString())


def _by_score(point: messages.ScoredPoint) -> float:
    return -point.score


def _by_similarity(one: Candidate) -> float:
    return -one.clip_similarity


def _different(points: Sequence[messages.ScoredPoint]) -> int:
    return len({point.id.uuid for point in points})


def _by_distance(one: Neighbour) -> tuple[float, int]:
    return one.perceptual_distance, one.training_image_id.int


def _candidate(point: messages.ScoredPoint) -> Candidate:
    return Candidate(_id(point.id.uuid), min(max(point.score, -1.0), 1.0))


def _candidate_with_payload(point: messages.ScoredPoint) -> Candidate:
    if not point.payload:
        return _candidate(point)
    return _candidate(point)._replace(payload=GrpcToRest.convert_payload(point.payload))


def _neighbour(point: messages.ScoredPoint) -> Neighbour:
    return Neighbour(_id(point.id.uuid), min(max(1.0 - point.score, 0.0), MAX_DISTANCE))
