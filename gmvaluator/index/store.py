"""Vector store: writes, scans and builds a collection through qdrant-client over gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from qdrant_client import grpc as messages
from qdrant_client import models

from gmvaluator.errors import IndexFailed, MissingIndex
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.collections import GENERATION_OF, aliases, generation_name, make_collection, point_alias
from gmvaluator.index.location import Access, Endpoint
from gmvaluator.index.qdrant import (
    CALL_TIMEOUT_S,
    collection_info,
    data_set_filter,
    rebuild_parameters,
    search_parameters,
)
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import (
    DEFAULT_QUANTISATION,
    DEFAULT_SETTINGS,
    INDEXING_THRESHOLD_KB,
    KEY_DATA_SET,
    KEY_GROUP,
    KEY_LOCAL_FEATURES,
    RECALL,
    CollectionMetadata,
    IndexSettings,
    SearchSettings,
    duplicate_group,
    require_profile,
)
from gmvaluator.index.stored_points import check_points, point_of, points_per_call, record_id, vectors_of
from gmvaluator.index.vectors import checked_vector, point_message
from gmvaluator.ports import Candidate, CollectionInfo, Float32Array, Point
from gmvaluator.profile import ProfileIdentity

_UPSERT_POINTS, _PAGE_POINTS = 128, 256
"""Limits of one call, in points; `points_per_call` also limits the bytes of their vectors."""

_POLL_FIRST_S, _POLL_LAST_S = 0.02, 0.25
_MAX_BUILDS = 3
"""Maximum number of builds before `build` gives up; each one is followed by another if points arrived meanwhile."""

_SETTLE_S = 5.0
"""Seconds for which a server's GREEN status is not trusted while points are unindexed."""

_BYTES_PER_FLOAT = 4
_PayloadSelector = bool | list[str] | models.PayloadSelectorExclude
_WITHOUT_LOCAL_FEATURES = models.PayloadSelectorExclude(exclude=[KEY_LOCAL_FEATURES])


class QdrantStore:
    """A vector store (`ports.VectorStore`) on a Qdrant server or an embedded engine.

    Thread-safe. Every operation is idempotent, as `IndexConnection` requires.
    """

    def __init__(
        self,
        access: Access,
        collection: str,
        quantisation: str = DEFAULT_QUANTISATION,
        settings: IndexSettings = DEFAULT_SETTINGS,
    ) -> None:
        """quantisation (one of `quantisation.CHOICES`), settings: used if `create` creates the collection."""
        self._connection = IndexConnection(access, f"collection {collection!r}")
        self._call = self._connection.call
        self._collection = collection
        self._quantisation = quantisation
        self._index_settings = settings
        self._metadata: CollectionMetadata | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint in use."""
        return self._connection.endpoint

    def create(self, identity: ProfileIdentity) -> None:
        """Create the collection if it is absent. Raises ProfileMismatch if another profile than `identity` built it."""
        try:
            info = self.info()
        except MissingIndex:
            self._make(CollectionMetadata(identity, self._quantisation, self._index_settings))
            info = self.info()
        require_profile(info, identity)
        self._index_payload()

    def _make(self, metadata: CollectionMetadata) -> None:
        if self._connection.embedded:
            make_collection(self._connection, self._collection, metadata)
            return
        # A server serves an alias, so that a rebuild can replace the collection behind it.
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
        """Return the collection's state. Raises MissingIndex if there is no such collection."""
        return collection_info(self._collection, self._call(lambda client: client.get_collection(self._collection)))

    def metadata(self) -> CollectionMetadata:
        """Return the collection's metadata, which is read once and cached."""
        if self._metadata is None:
            self._metadata = CollectionMetadata.from_dict(self._collection, self.info().metadata)
        return self._metadata

    def record(self, metadata: CollectionMetadata) -> None:
        """Store `metadata`, with new search settings and measured figures, in the collection."""
        value, name = metadata.as_dict(), self._resolve_alias()
        self._call(lambda client: client.update_collection(name, metadata=value, timeout=CALL_TIMEOUT_S))
        self._metadata = metadata

    def _resolve_alias(self) -> str:
        """Return the name of the collection behind the alias: updates of a collection do not accept an alias."""
        if self._connection.embedded:
            return self._collection
        return aliases(self._connection).get(self._collection, self._collection)

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; return once they survive a crash of the engine.

        Raises InvalidVector before any point is written.
        """
        profile = self.metadata().profile
        size = points_per_call(profile, _UPSERT_POINTS)
        batches = [points[start : start + size] for start in range(0, len(points), size)]
        for batch in batches:
            check_points(batch, profile)
        for batch in batches:
            self._upsert_batch([point_message(point, *vectors_of(point)) for point in batch])

    def _upsert_batch(self, batch: list[messages.PointStruct]) -> None:
        # The raw stub: qdrant-client converts vectors number by number, which takes most of an upsert's time.
        request = messages.UpsertPoints(collection_name=self._collection, wait=True, points=batch)
        self._call(lambda client: client.grpc_points.Upsert(request, timeout=CALL_TIMEOUT_S))

    def existing(self, ids: Sequence[TrainingImageId]) -> set[TrainingImageId]:
        """Return those of `ids` that are stored."""
        stored: set[TrainingImageId] = set()
        for page in _pages(ids):
            stored.update(self._existing_page(page))
        return stored

    def _existing_page(self, ids: list[str]) -> list[TrainingImageId]:
        records = self._call(lambda client: client.retrieve(self._collection, ids, with_payload=False))
        return [record_id(record) for record in records]

    def remove(self, ids: Sequence[TrainingImageId]) -> None:
        """Delete those of `ids` that are stored.

        No later search finds them; their bytes stay on disk until a rebuild.
        """
        for page in _pages(ids):
            self._remove_page(page)

    def _remove_page(self, ids: list[str]) -> None:
        selector = models.PointIdsList(points=list(ids))
        self._call(lambda client: client.delete(self._collection, selector, wait=True))

    def join_data_set(self, ids: Sequence[TrainingImageId], data_set: str) -> None:
        """Add `data_set` to the data sets of those of `ids` that are stored."""
        for page in _pages(ids):
            for record in self._data_sets_of(page):
                names = (record.payload or {}).get(KEY_DATA_SET, [])
                if data_set not in names:
                    self._set_data_sets(record.id, [*names, data_set])

    def _data_sets_of(self, ids: list[str]) -> list[models.Record]:
        return self._call(lambda client: client.retrieve(self._collection, ids, with_payload=[KEY_DATA_SET]))

    def _set_data_sets(self, point: models.ExtendedPointId, names: list[str]) -> None:
        payload = {KEY_DATA_SET: names}
        self._call(lambda client: client.set_payload(self._collection, payload, points=[point], wait=True))

    def defer_indexing(self) -> None:
        """Stop indexing until `build`; until then the collection is not `ready`."""
        optimizers, name = models.OptimizersConfigDiff(indexing_threshold=0), self._resolve_alias()
        self._call(lambda client: client.update_collection(name, optimizers_config=optimizers))

    def build(self) -> None:
        """Index and quantise all points; return once `info().ready`. Raises IndexFailed."""
        optimizers = models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD_KB)
        name = self._resolve_alias()
        for _ in range(_MAX_BUILDS):
            self._call(lambda client: client.update_collection(name, optimizers_config=optimizers))
            if self._wait_for_build():
                return
        raise IndexFailed(f"collection {self._collection!r} was built {_MAX_BUILDS} times and points still wait")

    def rebuild_embedded(self, metadata: CollectionMetadata) -> None:
        """Rewrite every point into a new generation with the settings of `metadata`, and swap to it.

        The old generation serves meanwhile. Concurrent writes are kept; nothing of deleted points is. Raises
        IndexFailed.
        """
        parameters = rebuild_parameters(metadata)
        self._call(lambda client: client.update_collection(self._collection, **parameters, timeout=CALL_TIMEOUT_S))
        self._metadata = None
        self.build()
        self._metadata = None

    @property
    def connection(self) -> IndexConnection:
        """The connection, for calls that concern several collections."""
        return self._connection

    def _wait_for_build(self) -> bool:
        """Wait for the build; return False if it ended and more points wait to be indexed."""
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
        """Return whether a GREEN status means that all points are indexed."""
        # A server is also GREEN for a moment before it begins to index.
        info = collection_info(self._collection, answer)
        profile = self.metadata().profile
        point_bytes = max(profile.recall_dim, profile.perceptual_views * profile.perceptual_dim) * _BYTES_PER_FLOAT
        waiting_bytes = (info.points - info.indexed_points) * point_bytes
        return waiting_bytes < INDEXING_THRESHOLD_KB * 1024 or time.monotonic() > settled_at

    def scan(self, with_vectors: bool = False) -> Iterator[Point]:
        """Iterate over all points in id order; without vectors and local features unless `with_vectors`."""
        profile = self.metadata().profile if with_vectors else None
        for record in self.records(with_vectors):
            yield point_of(record, profile)

    def records(self, with_vectors: bool) -> Iterator[models.Record]:
        """Iterate over all points in id order, as `scan`, without checks of what is stored."""
        limit = points_per_call(self.metadata().profile, _PAGE_POINTS) if with_vectors else _PAGE_POINTS
        payload = True if with_vectors else _WITHOUT_LOCAL_FEATURES
        offset: Any = None
        while True:
            records, offset = self._page(offset, with_vectors, limit, payload)
            yield from records
            if offset is None:
                return

    def _page(
        self, offset: Any, with_vectors: bool, limit: int, payload: _PayloadSelector = _WITHOUT_LOCAL_FEATURES
    ) -> tuple[list[models.Record], Any]:
        return self._call(
            lambda client: client.scroll(
                self._collection, limit=limit, offset=offset, with_payload=payload, with_vectors=with_vectors
            )
        )

    def ungroup(self, firsts: Sequence[TrainingImageId]) -> None:
        """Mark the members of the groups whose first works are `firsts` as not compared yet."""
        for page in _pages(firsts):
            self._ungroup_page(page)

    def _ungroup_page(self, firsts: list[str]) -> None:
        members = models.Filter(must=[models.FieldCondition(key=KEY_GROUP, match=models.MatchAny(any=firsts))])
        self._call(lambda client: client.delete_payload(self._collection, [KEY_GROUP], members, wait=True))

    def ungrouped(self) -> list[TrainingImageId]:
        """Return the works that have not been searched for near-duplicates yet."""
        works: list[TrainingImageId] = []
        offset: Any = None
        while True:
            records, offset = self._page(offset, False, _PAGE_POINTS, [KEY_GROUP])
            works.extend(record_id(record) for record in records if KEY_GROUP not in (record.payload or {}))
            if offset is None:
                return works

    def fetch(self, ids: Sequence[TrainingImageId], local_features: bool = False) -> list[Point]:
        """Return those of `ids` that are stored, with their vectors, and their local features if requested."""
        profile = self.metadata().profile
        payload = True if local_features else _WITHOUT_LOCAL_FEATURES
        points: list[Point] = []
        for page in _pages(ids, points_per_call(profile, _PAGE_POINTS)):
            points.extend(point_of(record, profile) for record in self._records(page, payload))
        return points

    def fetch_payloads(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        """Return those of `ids` that are stored, as `scan`, in one call; for at most a page of ids."""
        records = self._records([str(image_id) for image_id in ids], _WITHOUT_LOCAL_FEATURES, with_vectors=False)
        return [point_of(record, None) for record in records]

    def _records(self, ids: list[str], payload: _PayloadSelector, with_vectors: bool = True) -> list[models.Record]:
        return self._call(
            lambda client: client.retrieve(self._collection, ids, with_payload=payload, with_vectors=with_vectors)
        )

    def neighbours(self, vectors: Sequence[Float32Array], limit: int) -> list[list[Candidate]]:
        """Return the `limit` nearest of each `recall` vector (D,), nearest first, with the group in their payload."""
        parameters = search_parameters(self.metadata().search)
        requests = [
            models.QueryRequest(
                query=vector.tolist(), using=RECALL, limit=limit, params=parameters, with_payload=[KEY_GROUP]
            )
            for vector in vectors
        ]
        answers = self._call(lambda client: client.query_batch_points(self._collection, requests)) if requests else []
        return [
            [Candidate(record_id(point), point.score, point.payload or {}) for point in answer.points]
            for answer in answers
        ]

    def set_group(self, ids: Sequence[TrainingImageId], group: str) -> None:
        """Set the group of `ids`: the id of the first of their near-duplicates, or `schema.ALONE`."""
        selector = models.PointIdsList(points=[str(image_id) for image_id in ids])
        payload = {KEY_GROUP: group}
        self._call(lambda client: client.set_payload(self._collection, payload, points=selector, wait=True))

    def group_members(self, work: TrainingImageId, limit: int) -> list[TrainingImageId] | None:
        """Return the first `limit` members of the group of near-duplicates of `work`, itself included, in id order.

        The list is empty if the work has no near-duplicates. None if it is not stored or was not compared yet.
        """
        records = self._call(lambda client: client.retrieve(self._collection, [str(work)], with_payload=[KEY_GROUP]))
        payload = (records[0].payload or {}) if records else {}
        if KEY_GROUP not in payload:
            return None
        first = duplicate_group(payload)
        if first is None:
            return []
        match = models.FieldCondition(key=KEY_GROUP, match=models.MatchValue(value=str(first)))
        members, _ = self._call(
            lambda client: client.scroll(
                self._collection, models.Filter(must=[match]), limit=limit, with_payload=False, with_vectors=False
            )
        )
        return [record_id(member) for member in members]

    def points_from(self, ids: Sequence[UUID]) -> Iterator[Point]:
        """For each of `ids`, yield the stored point with that id or the next higher one, with its vectors."""
        profile = self.metadata().profile
        for first in ids:
            records, _ = self._page(str(first), True, limit=1)
            if not records:  # past the last point: wrap around
                records, _ = self._page(None, True, limit=1)
            yield from (point_of(record, profile) for record in records)

    def nearest(
        self,
        vector: Float32Array,
        limit: int,
        search: SearchSettings,
        data_sets: Sequence[str] = (),
        exact: bool = False,
    ) -> list[tuple[TrainingImageId, float]]:
        """Return the `limit` nearest by `recall` vector with their cosines.

        data_sets: restricts the search to their images, unless it is empty. exact: compare with every point.
        """
        query = checked_vector(vector, self.metadata().profile.recall_dim, "the query").tolist()
        parameters, selection = search_parameters(search, exact), data_set_filter(data_sets)
        answer = self._call(
            lambda client: client.query_points(
                self._collection,
                query,
                using=RECALL,
                limit=limit,
                query_filter=selection,
                search_params=parameters,
                with_payload=False,
            )
        )
        return [(record_id(point), point.score) for point in answer.points]

    def count(self, data_sets: Sequence[str] = ()) -> int:
        """Return the number of images in any of `data_sets`; in the collection, if there are none."""
        selection = data_set_filter(data_sets)
        return self._call(lambda client: client.count(self._collection, selection, exact=True)).count

    def close(self) -> None:
        """Close the connection. An embedded engine ends after its last user. Idempotent."""
        self._connection.close()


def _pages(ids: Sequence[TrainingImageId], size: int = _PAGE_POINTS) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield [str(image_id) for image_id in ids[start : start + size]]
