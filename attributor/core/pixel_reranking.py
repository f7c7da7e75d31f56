"""Re-ranking by a distance between images: candidates' features are computed from their thumbnails, and cached.

Cost, for LPIPS on AlexNet: a candidate that is not cached takes the decoding of its thumbnail and a forward pass; its
features take 2 MB in the cache; a query compares about 2 MB a candidate.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from attributor.workers.model_worker import Features
from gmvaluator.errors import InvalidImage, InvalidVector, MissingData
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import decode_image, thumbnail_path
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ports import Candidate, CandidateSearch, CollectionInfo, Float32Array, Neighbour, Prepare, Prepared

MAX_CACHE_BYTES = 1024**3
"""Maximum size of the cache of candidates' features, in bytes: about 550 works."""

MAX_QUEUED = 64
"""Maximum number of candidates in the models' queue at once, which must have room for queries, too."""

MAX_DISTANCE = 2.0
"""Upper bound of perceptual distances; greater ones count as this."""

_NOTHING = np.empty(0, np.uint8)


class PixelReranking:
    """A search (`ports.CandidateSearch`) on top of another: `rerank` compares features by their squared distance."""

    def __init__(
        self,
        search: CandidateSearch,
        thumbnails: Path,
        prepare: Prepare,
        embed: Callable[[Prepared], Awaitable[Features]],
        executor: Executor,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        """thumbnails: folder that the indexer writes; 256 pixels at most. prepare, embed: of the models in use."""
        self._search = search
        self._thumbnails = thumbnails
        self._prepare = prepare
        self._embed = embed
        self._executor = executor
        self._max_cache_bytes = max_cache_bytes
        self._queue_slots = asyncio.Semaphore(MAX_QUEUED)
        self._cache: OrderedDict[TrainingImageId, Float32Array] = OrderedDict()

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """Implement `CandidateSearch`."""
        return await self._search.recall(vector, depth, data_sets)

    async def recall_with_windows(
        self,
        vector: Float32Array,
        depth: int,
        windows: Float32Array,
        window_depth: int,
        data_sets: Sequence[str] | None = None,
    ) -> tuple[list[Candidate], list[list[Candidate]]]:
        """Implement `CandidateSearch`."""
        return await self._search.recall_with_windows(vector, depth, windows, window_depth, data_sets)

    async def local_features(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, LocalFeatures]:
        """Implement `CandidateSearch`."""
        return await self._search.local_features(ids)

    async def rerank(self, vector: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        """Implement `CandidateSearch`. vector: the query's features.

        Raises MissingData, naming the work, if a candidate has no thumbnail.
        """
        features = await asyncio.gather(*(self._features(work) for work in ids))
        distances = await asyncio.get_running_loop().run_in_executor(self._executor, _distances, vector, features)
        neighbours = [Neighbour(work, distance) for work, distance in zip(ids, distances, strict=True)]
        # By id where distances are equal, so that the order of candidates changes no credit.
        return sorted(neighbours, key=lambda near: (near.perceptual_distance, near.training_image_id))[:k]

    async def info(self) -> CollectionInfo:
        """Implement `CandidateSearch`."""
        return await self._search.info()

    async def close(self) -> None:
        """Close the index and empty the cache."""
        self._cache.clear()
        await self._search.close()

    async def _features(self, work: TrainingImageId) -> Float32Array:
        if work not in self._cache:
            async with self._queue_slots:
                prepared = await asyncio.get_running_loop().run_in_executor(self._executor, self._prepared, work)
                features = (await self._embed(prepared)).perceptual
                self._store(work, features)
                return features
        self._cache.move_to_end(work)
        return self._cache[work]

    def _store(self, work: TrainingImageId, features: Float32Array) -> None:
        self._cache[work] = features
        # The least recently used go first; one stays, however large.
        while len(self._cache) > max(1, self._max_cache_bytes // features.nbytes):
            self._cache.popitem(last=False)

    def _prepared(self, work: TrainingImageId) -> Prepared:
        path = thumbnail_path(self._thumbnails, work)
        try:
            image = decode_image(path.read_bytes())
        except (OSError, InvalidImage) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise MissingData(
                f"work {work} has no thumbnail {path} ({why}), which this profile compares: index it again"
            ) from error
        return Prepared(_NOTHING, self._prepare(image, parts=False).perceptual, _NOTHING)


def _distances(query: Float32Array, features: Sequence[Float32Array]) -> list[float]:
    """Return sums of squared differences, at most `MAX_DISTANCE`."""
    if any(candidate.shape != query.shape for candidate in features):
        raise InvalidVector(f"the query has {query.shape} features, other than its candidates: send the image itself")
    return [min(float(np.square(query - candidate).sum(dtype=np.float64)), MAX_DISTANCE) for candidate in features]
