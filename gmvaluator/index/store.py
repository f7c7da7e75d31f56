"""The writing side of the index, through qdrant-client over gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from qdrant_client import grpc as messages
from qdrant_client import models

from gmvaluator.errors import IndexFailed, MissingIndex
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.collections import GENERATION_OF, aliases, generation_name, make_collection, point_alias
from gmvaluator.index.location import Access, Endpoint
from gmvaluator.index.qdrant import CALL_TIMEOUT_S, collection_info, rebuild_parameters, search_parameters
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import (
    DEFAULT,
    DEFAULT_SETTINGS,
    INDEXING_THRESHOLD_KB,
    KEY_DATA_SET,
    KEY_GROUP,
    PERCEPTUAL,
    RECALL,
    CollectionMetadata,
    IndexSettings,
    SearchSettings,
    duplicate_group,
    require_profile,
)
from gmvaluator.index.vectors import all_fit, checked_vector, checked_vectors, point_message
from gmvaluator.ports import Candidate, CollectionInfo, Float32Array, Point
from gmvaluator.profile import ProfileIdentity

BATCH_POINTS = 128
BATCH_FLOATS = 512 * 1024
"""Limits of one call: two megabytes of vectors, and points where vectors are few."""

_PAGE_POINTS = 256
_POLL_FIRST_S, _POLL_LAST_S = 0.02, 0.25
_MAX_BUILDS = 3
_SETTLE_S = 5.0
_BYTES_PER_FLOAT = 4
_EMPTY = np.empty(0, dtype=np.float32)


class QdrantStore:
    """ports.VectorStore on a Qdrant server or on an embedded engine.

    Thread-safe. Every operation can be repeated without harm, as `IndexConnection` asks.
    """

    def __init__(
        self,
        access: Access,
        collection: str,
        quantisation: str = DEFAULT,
        settings: IndexSettings = DEFAULT_SETTINGS,
    ) -> None:
        """quantisation (one of `quantisation.CHOICES`), settings: of a collection that is yet to be made."""
        self._connection = IndexConnection(access, f"collection {collection!r}")
        self._call = self._connection.call
        self._collection = collection
        self._quantisation = quantisation
        self._index_settings = settings
        self._metadata: CollectionMetadata | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the index was last reached."""
        return self._connection.endpoint

    def create(self, identity: ProfileIdentity) -> None:
        """Make the collection if it is absent; otherwise check that it is `identity`'s own (ProfileMismatch)."""
        try:
            info = self.info()
        except MissingIndex:
            self._make(CollectionMetadata(identity, self._quantisation, self._index_settings))
            info = self.info()
        require_profile(info, identity)
        self._index_payload()

    def _make(self, metadata: CollectionMetadata) -> None:
        """On a server an alias is what is served, so that the collection behind it can be swapped whole."""
        if self._connection.embedded:
            make_collection(self._connection, self._collection, metadata)
            return
        first = generation_name(self._collection, 1)
        make_collection(self._connection, first, metadata, **{GENERATION_OF: self._collection})
        point_alias(self._connection, self._collection, first)

    def _index_payload(self) -> None:
        answer = self._call(lambda client: client.get_collection(self._collection))
        for key in (KEY_DATA_SET, KEY_GROUP):
            if key not in answer.payload_schema:
                self._index_key(key)

    def _index_key(self, key: str) -> None:
        keyword = models.PayloadSchemaType.KEYWORD
        self._call(lambda client: client.create_payload_index(self._collection, key, keyword, wait=True))

    def info(self) -> CollectionInfo:
        """State of the collection. Raises MissingIndex if there is none."""
        return collection_info(self._collection, self._call(lambda client: client.get_collection(self._collection)))

    def metadata(self) -> CollectionMetadata:
        """What the collection was built with; read once."""
        if self._metadata is None:
            self._metadata = CollectionMetadata.from_dict(self._collection, self.info().metadata)
        return self._metadata

    def record(self, metadata: CollectionMetadata) -> None:
        """Store other search settings and measured figures with the collection."""
        value, name = metadata.as_dict(), self._behind()
        self._call(lambda client: client.update_collection(name, metadata=value, timeout=CALL_TIMEOUT_S))
        self._metadata = metadata

    def _behind(self) -> str:
        """The collection's own name, where an alias serves it: what changes a collection takes no alias."""
        if self._connection.embedded:
            return self._collection
        return aliases(self._connection).get(self._collection, self._collection)

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; returns once they survive a crash of the engine. Raises InvalidVector before writing any."""
        profile = self.metadata().profile
        size = _points_of_a_call(profile, BATCH_POINTS)
        calls = [points[start : start + size] for start in range(0, len(points), size)]
        for some in calls:
            _check(some, profile)
        for some in calls:
            self._upsert_batch([point_message(one, *_vectors(one)) for one in some])

    def _upsert_batch(self, batch: list[messages.PointStruct]) -> None:
        request = messages.UpsertPoints(collection_name=self._collection, wait=True, points=batch)
        self._call(lambda client: client.grpc_points.Upsert(request, timeout=CALL_TIMEOUT_S))

    def existing(self, ids: Sequence[TrainingImageId]) -> set[TrainingImageId]:
        """Those of `ids` that are stored."""
        found: set[TrainingImageId] = set()
        for start in range(0, len(ids), _PAGE_POINTS):
            found.update(self._existing_page([str(wanted) for wanted in ids[start : start + _PAGE_POINTS]]))
        return found

    def _existing_page(self, ids: list[str]) -> list[TrainingImageId]:
        records = self._call(lambda client: client.retrieve(self._collection, ids, with_payload=False))
        return [TrainingImageId(UUID(str(record.id))) for record in records]

    def remove(self, ids: Sequence[TrainingImageId]) -> None:
        """Delete those of `ids` that are stored: no search finds them from then on. Their bytes stay until a purge."""
        for start in range(0, len(ids), _PAGE_POINTS):
            self._remove_page([str(one) for one in ids[start : start + _PAGE_POINTS]])

    def _remove_page(self, ids: list[models.ExtendedPointId]) -> None:
        wanted = models.PointIdsList(points=ids)
        self._call(lambda client: client.delete(self._collection, wanted, wait=True))

    def join_data_set(self, ids: Sequence[TrainingImageId], data_set: str) -> None:
        """Let those of `ids` that are stored be found under `data_set` too."""
        for start in range(0, len(ids), _PAGE_POINTS):
            for record in self._data_sets_of([str(wanted) for wanted in ids[start : start + _PAGE_POINTS]]):
                names = (record.payload or {}).get(KEY_DATA_SET, [])
                if data_set not in names:
                    self._set_data_sets(record.id, [*names, data_set])

    def _data_sets_of(self, ids: list[str]) -> list[models.Record]:
        return self._call(lambda client: client.retrieve(self._collection, ids, with_payload=[KEY_DATA_SET]))

    def _set_data_sets(self, point: models.ExtendedPointId, names: list[str]) -> None:
        payload = {KEY_DATA_SET: names}
        self._call(lambda client: client.set_payload(self._collection, payload, points=[point], wait=True))

    def defer_indexing(self) -> None:
        """Index nothing until `build`; until then the collection is not `ready`."""
        optimizers, name = models.OptimizersConfigDiff(indexing_threshold=0), self._behind()
        self._call(lambda client: client.update_collection(name, optimizers_config=optimizers))

    def build(self) -> None:
        """Index and quantise everything written so far; returns once `info().ready`. Raises IndexFailed."""
        optimizers = models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD_KB)
        name = self._behind()
        for _ in range(_MAX_BUILDS):
            self._call(lambda client: client.update_collection(name, optimizers_config=optimizers))
            if self._wait_for_build():
                return
        raise IndexFailed(f"collection {self._collection!r} was built {_MAX_BUILDS} times and points still wait")

    def rebuild_embedded(self, metadata: CollectionMetadata) -> None:
        """Write every point into a fresh generation, kept as `metadata` says, and swap. Raises IndexFailed.

        Serving goes on from the old one meanwhile, and what is written is kept; of what was deleted nothing is.
        """
        parameters = rebuild_parameters(metadata)
        self._call(lambda client: client.update_collection(self._collection, **parameters, timeout=CALL_TIMEOUT_S))
        self._metadata = None
        self.build()
        self._metadata = None

    @property
    def connection(self) -> IndexConnection:
        """For calls about more than one collection."""
        return self._connection

    def _wait_for_build(self) -> bool:
        """Wait while a build goes on; False if it has ended and points wait for another."""
        pause_s, settled_at = _POLL_FIRST_S, time.monotonic() + _SETTLE_S
        while True:
            answer = self._call(lambda client: client.get_collection(self._collection))
            if isinstance(answer.optimizer_status, models.OptimizersStatusOneOf1):
                raise IndexFailed(f"building {self._collection!r} failed: {answer.optimizer_status.error}")
            if answer.status == models.CollectionStatus.GREY:
                return False
            if answer.status == models.CollectionStatus.GREEN and self._complete(answer, settled_at):
                return True
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_LAST_S)

    def _complete(self, answer: models.CollectionInfo, settled_at: float) -> bool:
        """Whether GREEN means that all is indexed; a server says so also before it has begun, for a moment."""
        info = collection_info(self._collection, answer)
        profile = self.metadata().profile
        point_bytes = max(profile.recall_dim, profile.perceptual_views * profile.perceptual_dim) * _BYTES_PER_FLOAT
        waiting_bytes = (info.points - info.indexed_points) * point_bytes
        return waiting_bytes < INDEXING_THRESHOLD_KB * 1024 or time.monotonic() > settled_at

    def scan(self, with_vectors: bool = False) -> Iterator[Point]:
        """Every point, in id order; vectors are empty arrays unless asked for."""
        profile = self.metadata().profile
        limit = _points_of_a_call(profile, _PAGE_POINTS) if with_vectors else _PAGE_POINTS
        offset: Any = None
        while True:
            records, offset = self._page(offset, with_vectors, limit)
            for record in records:
                yield _point(record, profile if with_vectors else None)
            if offset is None:
                return

    def _page(
        self, offset: Any, with_vectors: bool, limit: int, keys: bool | list[str] = True
    ) -> tuple[list[models.Record], Any]:
        return self._call(
            lambda client: client.scroll(
                self._collection, limit=limit, offset=offset, with_payload=keys, with_vectors=with_vectors
            )
        )

    def ungroup(self, firsts: Sequence[TrainingImageId]) -> None:
        """Let the members of groups whose first works are `firsts` be looked at anew."""
        for start in range(0, len(firsts), _PAGE_POINTS):
            self._ungroup_page([str(one) for one in firsts[start : start + _PAGE_POINTS]])

    def _ungroup_page(self, firsts: list[str]) -> None:
        wanted = models.Filter(must=[models.FieldCondition(key=KEY_GROUP, match=models.MatchAny(any=firsts))])
        self._call(lambda client: client.delete_payload(self._collection, [KEY_GROUP], wanted, wait=True))

    def ungrouped(self) -> list[TrainingImageId]:
        """Works that nobody has looked at yet for near-copies."""
        found: list[TrainingImageId] = []
        offset: Any = None
        while True:
            records, offset = self._page(offset, False, _PAGE_POINTS, [KEY_GROUP])
            found.extend(TrainingImageId(UUID(str(one.id))) for one in records if KEY_GROUP not in (one.payload or {}))
            if offset is None:
                return found

    def fetch(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        """Those of `ids` that are stored, with their vectors."""
        profile = self.metadata().profile
        page = _points_of_a_call(profile, _PAGE_POINTS)
        found: list[Point] = []
        for start in range(0, len(ids), page):
            records = self._records([str(one) for one in ids[start : start + page]])
            found.extend(_point(record, profile) for record in records)
        return found

    def fetch_payloads(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        """As `fetch`, with empty vectors; a page of ids at most."""
        return [_point(record, None) for record in self._records([str(one) for one in ids], with_vectors=False)]

    def _records(self, ids: list[str], with_vectors: bool = True) -> list[models.Record]:
        return self._call(
            lambda client: client.retrieve(self._collection, ids, with_payload=True, with_vectors=with_vectors)
        )

    def neighbours(self, vectors: Sequence[Float32Array], limit: int) -> list[list[Candidate]]:
        """For each `recall` vector the `limit` nearest, most similar first, with the group in their payload."""
        parameters = search_parameters(self.metadata().search)
        requests = [
            models.QueryRequest(
                query=vector.tolist(), using=RECALL, limit=limit, params=parameters, with_payload=[KEY_GROUP]
            )
            for vector in vectors
        ]
        answers = self._call(lambda client: client.query_batch_points(self._collection, requests)) if requests else []
        return [
            [Candidate(TrainingImageId(UUID(str(one.id))), one.score, one.payload or {}) for one in answer.points]
            for answer in answers
        ]

    def set_group(self, ids: Sequence[TrainingImageId], group: str) -> None:
        """Mark works as looked at: the id of the first of their near-copies, or `schema.ALONE`."""
        wanted = models.PointIdsList(points=[str(one) for one in ids])
        payload = {KEY_GROUP: group}
        self._call(lambda client: client.set_payload(self._collection, payload, points=wanted, wait=True))

    def group_members(self, work: TrainingImageId, limit: int) -> list[TrainingImageId] | None:
        """All near-copies that form a group with `work`, itself among them, in id order; the first `limit` of them.

        Empty if it stands alone; None if it is not stored, or nobody has looked yet.
        """
        records = self._call(lambda client: client.retrieve(self._collection, [str(work)], with_payload=[KEY_GROUP]))
        payload = (records[0].payload or {}) if records else {}
        if KEY_GROUP not in payload:
            return None
        first = duplicate_group(payload)
        if first is None:
            return []
        match = models.FieldCondition(key=KEY_GROUP, match=models.MatchValue(value=str(first)))
        found, _ = self._call(
            lambda client: client.scroll(
                self._collection, models.Filter(must=[match]), limit=limit, with_payload=False, with_vectors=False
            )
        )
        return [TrainingImageId(UUID(str(one.id))) for one in found]

    def points_at(self, places: Sequence[UUID]) -> Iterator[Point]:
        """For each of `places`, the stored point with the next id, with its vectors; the first one after the last."""
        profile = self.metadata().profile
        for place in places:
            records, _ = self._page(str(place), True, limit=1)
            if not records:
                records, _ = self._page(None, True, limit=1)
            yield from (_point(record, profile) for record in records)

    def nearest(
        self, vector: Float32Array, limit: int, search: SearchSettings, exact: bool = False
    ) -> list[tuple[TrainingImageId, float]]:
        """The `limit` nearest by `recall` vector, with their cosines; `exact` compares with every point."""
        query = checked_vector(vector, self.metadata().profile.recall_dim, "the query").tolist()
        parameters = search_parameters(search, exact)
        answer = self._call(
            lambda client: client.query_points(
                self._collection, query, using=RECALL, limit=limit, search_params=parameters, with_payload=False
            )
        )
        return [(TrainingImageId(UUID(str(point.id))), point.score) for point in answer.points]

    def close(self) -> None:
        """Let go of the index; an embedded engine ends when nobody else holds it. Harmless when done twice."""
        self._connection.close()


def _points_of_a_call(profile: ProfileIdentity, most: int) -> int:
    floats = profile.recall_dim + profile.perceptual_views * profile.perceptual_dim
    return max(1, min(most, BATCH_FLOATS // floats))


def _check(points: Sequence[Point], profile: ProfileIdentity) -> None:
    """Raises InvalidVector, naming the first whose vectors are not of the profile, finite and of unit norm."""
    views = (profile.perceptual_views, profile.perceptual_dim)
    recalls, perceptuals = zip(*map(_vectors, points), strict=True)
    if all_fit(recalls, (profile.recall_dim,)) and all_fit(perceptuals, views):
        return
    for point in points:
        subject = f"training image {point.training_image_id}"
        checked_vector(point.recall, profile.recall_dim, f"the {RECALL} vector of {subject}")
        _checked_views(point.perceptual, profile, f"the {PERCEPTUAL} vectors of {subject}")


def _vectors(point: Point) -> tuple[Float32Array, Float32Array]:
    return np.asarray(point.recall, np.float32), np.asarray(point.perceptual, np.float32)


def _point(record: models.Record, profile: ProfileIdentity | None) -> Point:
    wanted = TrainingImageId(UUID(str(record.id)))
    payload = record.payload or {}
    if profile is None:
        return Point(wanted, _EMPTY, _EMPTY, payload)
    vectors: Any = record.vector or {}
    recall = checked_vector(vectors.get(RECALL, ()), profile.recall_dim, f"the stored {RECALL} vector of {wanted}")
    perceptual = _checked_views(vectors.get(PERCEPTUAL, ()), profile, f"the stored {PERCEPTUAL} vectors of {wanted}")
    return Point(wanted, recall, perceptual, payload)


def _checked_views(vectors: npt.ArrayLike, profile: ProfileIdentity, subject: str) -> Float32Array:
    return checked_vectors(vectors, profile.perceptual_views, profile.perceptual_dim, subject)
