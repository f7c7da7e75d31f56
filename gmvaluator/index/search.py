"""Asynchronous search of the index over grpc.aio, the hot path.

A generated image takes two calls, and a third one if its policy counts parts: for the local features of works that are
not cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any
from uuid import UUID

import numpy as np
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from gmvaluator.errors import IndexFailed, InvalidVector
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.async_client import AsyncIndexConnection, Channel
from gmvaluator.index.engine.checksums import CHECKED, NORM_TOLERANCE
from gmvaluator.index.location import Access
from gmvaluator.index.qdrant import collection_info, search_parameters
from gmvaluator.index.schema import KEY_DATA_SET, KEY_LOCAL_FEATURES, PERCEPTUAL, RECALL, CollectionMetadata
from gmvaluator.index.server_checks import ServerChecks
from gmvaluator.index.vectors import checked_vector, damaged_work
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ports import Candidate, CollectionInfo, Float32Array, Neighbour

_MAX_SIMILARITY = 1.0 + NORM_TOLERANCE
"""Upper limit of the cosine of two vectors of unit norm, with the error of their norms; nan exceeds it."""

MAX_DISTANCE = 2.0
"""Upper limit of perceptual distances, which are 1 - cosine."""

_TIES = 14
"""Neighbours requested beyond the k-th, to detect others at the same distance."""

# The same training images are recalled for many generated images.
_CACHED_IDS = 200_000
"""Size of the caches of parsed and encoded training image ids."""

# Decoding takes most of the time of a fetch. An id is a hash of the image's bytes, so its features never change.
_CACHED_FEATURES = 2_000
"""Works whose parsed local features are kept, the last used ones; each takes 16 KB."""

_Points = Sequence[messages.ScoredPoint]
_Works = _Points | Sequence[messages.RetrievedPoint]
_NO_WINDOWS = np.empty((0, 0), np.float32)
_LOCAL_FEATURES = messages.WithPayloadSelector(include=messages.PayloadIncludeSelector(fields=[KEY_LOCAL_FEATURES]))


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

    Calls are retried as in `async_client`.
    """

    def __init__(self, access: Access, collection: str, payload_keys: Sequence[str] = ()) -> None:
        """payload_keys: payload entries to return with each candidate; none by default, which is fastest."""
        self._connection = AsyncIndexConnection(access, f"collection {collection!r}")
        self._call = self._connection.call
        self._collection = collection
        self._payload = messages.WithPayloadSelector(enable=False)
        self._candidate = _candidate_with_payload if payload_keys else _candidate
        if payload_keys:
            include = messages.PayloadIncludeSelector(fields=payload_keys)
            self._payload = messages.WithPayloadSelector(include=include)
        self._settings: _Settings | None = None
        self._server_checks = ServerChecks(collection)
        self._features: OrderedDict[TrainingImageId, LocalFeatures] = OrderedDict()

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """Return the `depth` nearest training images by `recall` vector (D,), nearest first.

        data_sets: restricts the search to images of these data sets. Raises InvalidVector, MissingIndex,
        IndexUnavailable, IndexFailed if the index returns an incomplete result.
        """
        candidates, _ = await self.recall_with_windows(vector, depth, _NO_WINDOWS, depth, data_sets)
        return candidates

    async def recall_with_windows(
        self,
        vector: Float32Array,
        depth: int,
        windows: Float32Array,
        window_depth: int,
        data_sets: Sequence[str] | None = None,
    ) -> tuple[list[Candidate], list[list[Candidate]]]:
        """Return `recall` of `vector`, and of each row of `windows` (W, D) the `window_depth` nearest, in one call.

        Raises the same errors as `recall`.
        """
        settings = await self._get_settings()
        whole = checked_vector(vector, settings.recall_dim, "the query")
        parts = [checked_vector(window, settings.recall_dim, "a window of the query") for window in windows]
        if data_sets is not None and not data_sets:
            return [], [[] for _ in parts]
        selection = None if data_sets is None else _in_data_sets(tuple(data_sets))
        requests = [self._nearest_works(part, window_depth, settings, selection) for part in parts]
        requests = [self._nearest_works(whole, depth, settings, selection), *requests]
        results = await self._require_complete(requests, await self._query_batch(requests), exact=True)
        # A server may return the merged results of its shards in any order.
        first, *others = [sorted(map(self._candidate, points), key=_by_similarity) for points in results]
        return first, others

    def _nearest_works(
        self, data: Float32Array, depth: int, settings: _Settings, selection: messages.Filter | None
    ) -> messages.QueryPoints:
        return messages.QueryPoints(
            collection_name=self._collection,
            query=_nearest(data),
            using=RECALL,
            limit=depth,
            params=settings.parameters,
            with_payload=self._payload,
            filter=selection,
        )

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
        results = await self._require_complete(requests, await self._query_batch(requests))
        # Each of the k nearest to all views together is among the k nearest to one of the views.
        neighbours = [
            await self._resolve_ties(request, points, ids, k) for request, points in zip(requests, results, strict=True)
        ]
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
        """Return the result of `request` with every neighbour at the distance of the k-th."""
        points = sorted(points, key=_by_score)
        if k < len(points) < len(ids) and points[k - 1].score == points[-1].score:
            # Ties reach the end of the result, and ids order them: all candidates are needed.
            request.limit = len(ids)
            (points,) = await self._require_complete([request], await self._query_batch([request]))
        self._require_among(points, ids)
        return [_neighbour(point) for point in points]

    async def local_features(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, LocalFeatures]:
        """Return the local features of those of `ids` that are stored and have any.

        A work that was removed after an earlier call may still be among them. Raises MissingIndex, IndexUnavailable,
        IndexFailed if the features of one of them are damaged or the index returns an incomplete result.
        """
        works = dict.fromkeys(ids)
        cached = {work: self._features[work] for work in works if work in self._features}
        unknown = [work for work in works if work not in cached]
        answer = cached | (await self._fetch_features(unknown) if unknown else {})
        self._features.update(answer)
        for work in answer:
            self._features.move_to_end(work)
        while len(self._features) > _CACHED_FEATURES:
            self._features.popitem(last=False)
        return answer

    async def _fetch_features(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, LocalFeatures]:
        request = messages.GetPoints(
            collection_name=self._collection,
            ids=[messages.PointId(uuid=str(work)) for work in ids],
            with_payload=_LOCAL_FEATURES,
            with_vectors=messages.WithVectorsSelector(enable=False),
        )
        points = (await self._call(partial(_get, request))).result
        # Fewer than requested are an incomplete result, or the others were removed.
        works = _distinct_works(points)
        if works < len(ids) and works < await self._count(_among(ids)):
            points = (await self._call(partial(_get, request))).result
            self._require_works(points, await self._count(_among(ids)))
        self._require_among(points, ids)
        return {_id(point.id.uuid): _features(point) for point in points if KEY_LOCAL_FEATURES in point.payload}

    def _require_among(self, points: _Works, ids: Sequence[TrainingImageId]) -> None:
        """Raise IndexFailed if a result contains other images than the requested ones."""
        strange = {_id(point.id.uuid) for point in points}.difference(ids)
        if strange:
            raise IndexFailed(
                f"{self._connection.name} was asked for {len(ids)} works and answered {len(strange)} others, such "
                f"as {min(strange)}: see its log"
            )

    async def _require_complete(
        self, requests: Sequence[messages.QueryPoints], results: Sequence[_Points], exact: bool = False
    ) -> list[_Points]:
        """Return the results of `requests`, which have one filter; query again where a result is incomplete.

        A result is complete if it holds as many works as the limit, or all that the filter selects. exact: compare
        every vector in the second query, because a graph may not reach all that a filter selects. Raises IndexFailed
        if a second result is incomplete too.
        """
        # An incomplete result would leave the owners of the missing works without credit.
        complete = list(results)
        selected: int | None = None
        for number, (request, points) in enumerate(zip(requests, results, strict=True)):
            if (works := _distinct_works(points)) == request.limit:
                continue
            selected = await self._count(request.filter) if selected is None else selected
            if works < selected:
                complete[number] = await self._query_again(request, exact)
        return complete

    async def _query_again(self, request: messages.QueryPoints, exact: bool) -> _Points:
        """Return the complete result of a second query. Raises IndexFailed."""
        if exact:
            request.params.exact = True
        (points,) = await self._query_batch([request])
        self._require_works(points, min(request.limit, await self._count(request.filter)))
        return points

    def _require_works(self, points: _Works, expected: int) -> None:
        """Raise IndexFailed if a result has fewer than `expected` works."""
        works = _distinct_works(points)
        if works < expected:
            raise IndexFailed(
                f"{self._connection.name} answered {works} of {expected} works: a part of it is missing or does not "
                "answer; see its log"
            )

    async def _count(self, selection: messages.Filter) -> int:
        """Return the number of points that a filter selects; one without a condition selects all."""
        count = messages.CountPoints(collection_name=self._collection, filter=selection, exact=True)
        response = await self._call(lambda channel, options: channel.points.Count(count, **options))
        number: int = response.result.count
        return number

    async def info(self) -> CollectionInfo:
        """Return the collection's current state, not cached. Raises MissingIndex, IndexUnavailable."""
        request = messages.GetCollectionInfoRequest(collection_name=self._collection)
        calls: list[Any] = []

        def get(channel: Channel, options: Mapping[str, Any]) -> Any:
            calls.append(channel.collections.Get(request, **options))
            return calls[-1]

        response = await self._call(get)
        info = collection_info(self._collection, GrpcToRest.convert_collection_info(response.result))
        self._settings = _settings_of(info, CHECKED in tuple(await calls[-1].trailing_metadata()))
        return info

    async def close(self) -> None:
        """Close the connection. An embedded engine ends after its last user. Idempotent."""
        await self._connection.close()

    async def _get_settings(self) -> _Settings:
        if self._settings is None:
            await self.info()
        assert self._settings is not None
        return self._settings

    async def _query_batch(self, requests: Sequence[messages.QueryPoints]) -> list[_Points]:
        """Return the result of each request, from a single call. Raises IndexFailed for results that cannot be used."""
        if len(requests) == 1:
            response = await self._call(lambda channel, options: channel.points.Query(requests[0], **options))
            results: list[_Points] = [response.result]
        else:
            batch = messages.QueryBatchPoints(collection_name=self._collection, query_points=requests)
            response = await self._call(lambda channel, options: channel.points.QueryBatch(batch, **options))
            results = [batch_result.result for batch_result in response.result]
        if len(results) != len(requests):
            name = self._connection.name
            raise IndexFailed(f"{name} answered {len(results)} of {len(requests)} queries: see its log")
        impossible = [point for point in chain.from_iterable(results) if not abs(point.score) <= _MAX_SIMILARITY]
        if impossible:
            raise damaged_work(impossible[0].id.uuid, f"their similarity to an image is {impossible[0].score:.6g}")
        return results


def _get(request: messages.GetPoints, channel: Channel, options: Mapping[str, Any]) -> Any:
    return channel.points.Get(request, **options)


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


def _distinct_works(points: _Works) -> int:
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


def _features(point: messages.RetrievedPoint) -> LocalFeatures:
    try:
        return LocalFeatures.from_text(point.payload[KEY_LOCAL_FEATURES].string_value)
    except InvalidVector as error:
        raise damaged_work(point.id.uuid, str(error), "local features") from error
