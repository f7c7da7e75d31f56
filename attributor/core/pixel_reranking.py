"""Re-ranking by a distance of pixels: candidates' features come from their thumbnails through the models, and are kept.

Cost, for LPIPS on AlexNet: a candidate seen for the first time takes a thumbnail's decoding and a forward pass; its
features 2 MB of memory while they are kept; a query compares about 2 MB a candidate.
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
from gmvaluator.ports import Candidate, CandidateSearch, CollectionInfo, Float32Array, Neighbour, Prepared

MAX_KEPT_BYTES = 1024**3
"""Of candidates' features: about 550 works."""

MAX_ASKED = 64
"""Candidates' thumbnails in the models' queue at once: it has to have room for queries too."""

MAX_DISTANCE = 2.0
_NOTHING = np.empty(0, np.uint8)


class PixelReranking:
    """`ports.CandidateSearch` on another: recall is its, `rerank` compares features by their squared distance."""

    def __init__(
        self,
        search: CandidateSearch,
        thumbnails: Path,
        prepare: Callable[..., Prepared],
        embed: Callable[[Prepared], Awaitable[Features]],
        executor: Executor,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        """prepare, embed: of the models in use. Thumbnails are what the indexer keeps, 256 pixels at most."""
        self._search = search
        self._thumbnails = thumbnails
        self._prepare = prepare
        self._embed = embed
        self._executor = executor
        self._max_kept_bytes = max_kept_bytes
        self._room = asyncio.Semaphore(MAX_ASKED)
        self._kept: OrderedDict[TrainingImageId, Float32Array] = OrderedDict()

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """See the port."""
        return await self._search.recall(vector, depth, data_sets)

    async def rerank(self, vector: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        """vector: the query's features. Raises MissingData if a candidate has no thumbnail, naming it."""
        features = await asyncio.gather(*(self._features(one) for one in ids))
        distances = await asyncio.get_running_loop().run_in_executor(self._executor, _distances, vector, features)
        neighbours = [Neighbour(one, distance) for one, distance in zip(ids, distances, strict=True)]
        return sorted(neighbours, key=lambda one: (one.perceptual_distance, one.training_image_id))[:k]

    async def info(self) -> CollectionInfo:
        """See the port."""
        return await self._search.info()

    async def close(self) -> None:
        """Let go of the index and of what was kept."""
        self._kept.clear()
        await self._search.close()

    async def _features(self, one: TrainingImageId) -> Float32Array:
        if one not in self._kept:
            async with self._room:
                prepared = await asyncio.get_running_loop().run_in_executor(self._executor, self._prepared, one)
                self._keep(one, (await self._embed(prepared)).perceptual)
        self._kept.move_to_end(one)
        return self._kept[one]

    def _keep(self, one: TrainingImageId, features: Float32Array) -> None:
        self._kept[one] = features
        while len(self._kept) > max(1, self._max_kept_bytes // features.nbytes):
            self._kept.popitem(last=False)

    def _prepared(self, one: TrainingImageId) -> Prepared:
        path = thumbnail_path(self._thumbnails, one)
        try:
            image = decode_image(path.read_bytes())
        except (OSError, InvalidImage) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise MissingData(
                f"work {one} has no thumbnail {path} ({why}), which this profile compares: index it again"
            ) from error
        return Prepared(_NOTHING, self._prepare(image).perceptual, _NOTHING)


def _distances(query: Float32Array, features: Sequence[Float32Array]) -> list[float]:
    """Sums of squared differences, held to [0, 2]."""
    if any(one.shape != query.shape for one in features):
        raise InvalidVector(f"the query has {query.shape} features, other than its candidates: send the image itself")
    return [min(float(np.square(query - one).sum(dtype=np.float64)), MAX_DISTANCE) for one in features]
