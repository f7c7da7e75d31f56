"""A vector index in memory that searches exactly: the slow reference of the real one.

index = MemoryIndex()
store, search = MemoryStore(index), MemorySearch(index)
store.create(EXAMPLE_IDENTITY)
store.upsert(example_points(100))
store.build()
candidates = await search.recall(vector, depth=10)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidVector, MissingIndex
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.index.schema import (
    KEY_DATA_SET,
    KEY_GROUP,
    KEY_KEY,
    KEY_LOCAL_FEATURES,
    PERCEPTUAL,
    RECALL,
    CollectionMetadata,
    require_profile,
)
from gmvaluator.index.stored_points import stored_local_features
from gmvaluator.index.vectors import checked_vector, checked_vectors, damaged_work
from gmvaluator.keypoints import DESCRIPTOR_DIM, GRID, MAX_KEYPOINTS, LocalFeatures
from gmvaluator.ports import Candidate, CollectionInfo, Float32Array, Neighbour, Point
from gmvaluator.profile import ProfileIdentity

EXAMPLE_IDENTITY = ProfileIdentity(
    name="example",
    recall_model="random clusters",
    perceptual_model="random directions",
    quality_model="none",
    recall_dim=64,
    perceptual_dim=32,
    precision="fp32",
    weights={},
    perceptual_views=3,
)

_EMPTY = np.empty(0, dtype=np.float32)


def example_points(count: int, identity: ProfileIdentity = EXAMPLE_IDENTITY, seed: int = 0) -> list[Point]:
    """Return points in clusters of about ten, as images form them; every second one is in data set "odd" too."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // 10), identity.recall_dim))
    recall = centres[random.integers(len(centres), size=count)] + random.normal(size=(count, identity.recall_dim))
    perceptual = random.normal(size=(count, identity.perceptual_views, identity.perceptual_dim))
    return [
        Point(
            training_image_id=training_image_id(sha256_hex(f"{seed} {i}".encode())),
            recall=_unit(recall[i]),
            perceptual=_unit(perceptual[i]),
            payload={KEY_KEY: f"{seed}/{i}", KEY_DATA_SET: ["all", "odd"] if i % 2 else ["all"]},
        )
        for i in range(count)
    ]


def example_features(keypoints: int = MAX_KEYPOINTS, seed: int = 0, most: int = MAX_KEYPOINTS) -> LocalFeatures:
    """Return local features of random keypoints, `most` at most, as precisely as an index stores them."""
    random = np.random.default_rng(seed)
    features = LocalFeatures(
        positions=random.random((keypoints, 2), np.float32),
        sizes=random.uniform(0.005, 0.5, keypoints).astype(np.float32),
        angles=random.uniform(0, 2 * np.pi, keypoints).astype(np.float32),
        descriptors=random.integers(-127, 128, (keypoints, DESCRIPTOR_DIM), np.int8),
        mirrored=np.empty((0, DESCRIPTOR_DIM), np.int8),
        content=random.random((GRID, GRID)) < 0.5,
    )
    return LocalFeatures.from_bytes(features.to_bytes(), most)


def with_local_features(point: Point, features: LocalFeatures) -> Point:
    """Return `point` with `features` in its payload, as an index stores them."""
    return replace(point, payload={**point.payload, KEY_LOCAL_FEATURES: features.to_text()})


def _unit(vector: npt.NDArray[np.float64]) -> Float32Array:
    unit: Float32Array = (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32)
    return unit


class MemoryIndex:
    """A collection that a `MemoryStore` writes and a `MemorySearch` reads; pass one to both. Not thread-safe."""

    def __init__(self, name: str = "works") -> None:
        self.name = name
        self.metadata: CollectionMetadata | None = None
        self.points: dict[TrainingImageId, Point] = {}
        self.indexed: set[TrainingImageId] = set()

    def info(self) -> CollectionInfo:
        """Return the state of the collection. Raises MissingIndex."""
        metadata = self.described()
        ready = len(self.indexed) == len(self.points)
        return CollectionInfo(self.name, len(self.points), len(self.indexed), ready, metadata.as_dict())

    def described(self) -> CollectionMetadata:
        """Return the metadata that the collection was created with. Raises MissingIndex."""
        if self.metadata is None:
            raise MissingIndex(f"there is no collection {self.name!r}: index images first")
        return self.metadata


class MemoryStore:
    """A vector store (`ports.VectorStore`) that writes to a `MemoryIndex`."""

    def __init__(self, index: MemoryIndex) -> None:
        self._index = index

    def create(self, identity: ProfileIdentity) -> None:
        if self._index.metadata is None:
            self._index.metadata = CollectionMetadata(identity)
        require_profile(self.info(), identity)

    def info(self) -> CollectionInfo:
        return self._index.info()

    def upsert(self, points: Sequence[Point]) -> None:
        profile = self._index.described().profile
        for point in points:
            checked_vector(point.recall, profile.recall_dim, f"{RECALL} of {point.training_image_id}")
            subject = f"{PERCEPTUAL} of {point.training_image_id}"
            checked_vectors(point.perceptual, profile.perceptual_views, profile.perceptual_dim, subject)
        self._index.points.update({point.training_image_id: point for point in points})
        self._index.indexed.difference_update(point.training_image_id for point in points)

    def existing(self, ids: Sequence[TrainingImageId]) -> set[TrainingImageId]:
        return {work for work in ids if work in self._index.points}

    def remove(self, ids: Sequence[TrainingImageId]) -> None:
        for work in ids:
            self._index.points.pop(work, None)
            self._index.indexed.discard(work)

    def join_data_set(self, ids: Sequence[TrainingImageId], data_set: str) -> None:
        for point in self._stored(ids):
            names = [*point.payload.get(KEY_DATA_SET, ()), data_set]
            payload = {**point.payload, KEY_DATA_SET: list(dict.fromkeys(names))}
            self._index.points[point.training_image_id] = replace(point, payload=payload)

    def ungroup(self, firsts: Sequence[TrainingImageId]) -> None:
        names = {str(work) for work in firsts}
        for work, point in self._index.points.items():
            if point.payload.get(KEY_GROUP) in names:
                payload = {name: value for name, value in point.payload.items() if name != KEY_GROUP}
                self._index.points[work] = replace(point, payload=payload)

    def ungrouped(self) -> list[TrainingImageId]:
        return sorted(work for work, point in self._index.points.items() if KEY_GROUP not in point.payload)

    def fetch(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        return [_without_local_features(point) for point in self._stored(ids)]

    def _stored(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        return [self._index.points[work] for work in ids if work in self._index.points]

    def neighbours(self, vectors: Sequence[Float32Array], limit: int) -> list[list[Candidate]]:
        return [
            sorted(
                (
                    Candidate(
                        point.training_image_id, _cosine(vector, point.recall), _without_local_features(point).payload
                    )
                    for point in self._index.points.values()
                ),
                key=lambda candidate: (-candidate.clip_similarity, candidate.training_image_id),
            )[:limit]
            for vector in vectors
        ]

    def set_group(self, ids: Sequence[TrainingImageId], group: str) -> None:
        for point in self._stored(ids):
            payload = {**point.payload, KEY_GROUP: group}
            self._index.points[point.training_image_id] = replace(point, payload=payload)

    def group_members(self, work: TrainingImageId, limit: int) -> list[TrainingImageId] | None:
        points = self._index.points
        if work not in points or KEY_GROUP not in points[work].payload:
            return None
        group = points[work].payload[KEY_GROUP]
        return sorted(id_ for id_ in points if group and points[id_].payload.get(KEY_GROUP) == group)[:limit]

    def defer_indexing(self) -> None:
        """Do nothing: points are never indexed before `build`."""

    def build(self) -> None:
        self._index.described()
        self._index.indexed = set(self._index.points)

    def scan(self, with_vectors: bool = False) -> Iterator[Point]:
        self._index.described()
        for work in sorted(self._index.points):
            point = self._index.points[work]
            yield point if with_vectors else replace(_without_local_features(point), recall=_EMPTY, perceptual=_EMPTY)

    def close(self) -> None:
        """Do nothing: no resource is open."""


class MemorySearch:
    """A search (`ports.CandidateSearch`) of a `MemoryIndex`."""

    def __init__(self, index: MemoryIndex) -> None:
        self._index = index

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        query = checked_vector(vector, self._index.described().profile.recall_dim, "the query")
        points = [point for point in self._index.points.values() if _within(point, data_sets)]
        candidates = [Candidate(point.training_image_id, _cosine(query, point.recall)) for point in points]
        candidates.sort(key=lambda candidate: (-candidate.clip_similarity, candidate.training_image_id))
        return candidates[:depth]

    async def recall_with_windows(
        self,
        vector: Float32Array,
        depth: int,
        windows: Float32Array,
        window_depth: int,
        data_sets: Sequence[str] | None = None,
    ) -> tuple[list[Candidate], list[list[Candidate]]]:
        candidates = await self.recall(vector, depth, data_sets)
        return candidates, [await self.recall(window, window_depth, data_sets) for window in windows]

    async def local_features(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, LocalFeatures]:
        self._index.described()
        points = [self._index.points[work] for work in ids if work in self._index.points]
        features = {point.training_image_id: _local_features(point) for point in points}
        return {work: stored for work, stored in features.items() if stored is not None}

    async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        dimension = self._index.described().profile.perceptual_dim
        queries = [checked_vector(vector, dimension, "the query") for vector in vectors]
        points = [self._index.points[work] for work in set(ids) if work in self._index.points]
        neighbours = [
            Neighbour(point.training_image_id, min(max(1 - _nearest_views(queries, point), 0.0), 2.0))
            for point in points
        ]
        neighbours.sort(key=lambda neighbour: (neighbour.perceptual_distance, neighbour.training_image_id))
        return neighbours[:k]

    async def info(self) -> CollectionInfo:
        return self._index.info()

    async def close(self) -> None:
        """Do nothing: no resource is open."""


def _local_features(point: Point) -> LocalFeatures | None:
    try:
        return stored_local_features(point.payload)
    except InvalidVector as error:
        raise damaged_work(point.training_image_id, str(error), "local features") from error


def _without_local_features(point: Point) -> Point:
    payload = {name: value for name, value in point.payload.items() if name != KEY_LOCAL_FEATURES}
    return replace(point, payload=payload)


def _nearest_views(queries: Sequence[Float32Array], point: Point) -> float:
    return max(_cosine(query, view) for query in queries for view in point.perceptual)


def _cosine(query: Float32Array, vector: Float32Array) -> float:
    return float(query.astype(np.float64) @ vector.astype(np.float64))


def _within(point: Point, data_sets: Sequence[str] | None) -> bool:
    return data_sets is None or bool(set(data_sets).intersection(point.payload.get(KEY_DATA_SET, ())))
