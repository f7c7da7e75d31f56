"""Asks the real index about every image, once: what it recalls, and how near it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.known_source.queries import Query
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.opening import open_search
from gmvaluator.index.schema import KEY_GROUP, duplicate_group, require_profile
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ports import Embeddings, Models
from gmvaluator.valuation.weights import distance_millionths

DEPTH = 200
COLLECTION = "works"
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Found:
    """What the index answered to one image, as the service would have it.

    recalled: ids, most similar first, with `similarity_millionths` as 1 - cosine of the recall vectors. reranked: the
    same ids, nearest first, with `distance_millionths`. quality: in [0, 1]. groups: of those re-ranked, the first of
    their near-copies, or they themselves; empty where the index was not asked.
    """

    recalled: tuple[TrainingImageId, ...]
    recall_millionths: tuple[int, ...]
    reranked: tuple[TrainingImageId, ...]
    distance_millionths: tuple[int, ...]
    quality: float
    groups: tuple[TrainingImageId, ...] = ()

    def candidates(self) -> list[ScoredCandidate]:
        """Those re-ranked, as they are valued."""
        return [
            ScoredCandidate(work, distance, 0, group)
            for work, distance, group in zip(
                self.reranked, self.distance_millionths, self.groups or self.reranked, strict=True
            )
        ]


def embed(models: Models, queries: Sequence[Query]) -> Embeddings:
    """Embeddings of all images, in batches, with progress."""
    inputs = [models.prepare(query.image) for query in queries]
    parts = []
    for start in range(0, len(inputs), _CHUNK):
        parts.append(models.embed(inputs[start : start + _CHUNK]))
        print(f"embedded {start + len(parts[-1].recall):,}/{len(inputs):,}", end="\r", file=sys.stderr)  # noqa: T201
    print(file=sys.stderr)  # noqa: T201
    return Embeddings(
        np.concatenate([part.recall for part in parts]),
        np.concatenate([part.perceptual for part in parts]),
        np.concatenate([part.quality for part in parts if part.quality is not None]),
    )


def search_all(location: str | Path, models: Models, queries: Sequence[Query]) -> list[Found]:
    """Recall and re-rank for each image.

    Raises MissingIndex, or ProfileMismatch if the index is another profile's, before anything is embedded.
    """
    return asyncio.run(_search_all(location, models, queries))


async def _search_all(location: str | Path, models: Models, queries: Sequence[Query]) -> list[Found]:
    search = open_search(location, COLLECTION, payload_keys=(KEY_GROUP,))
    try:
        require_profile(await search.info(), models.identity)
        embeddings = embed(models, queries)  # minutes, and nothing else waits for this loop
        found = []
        assert embeddings.quality is not None
        for recall, perceptual, quality in zip(
            embeddings.recall, embeddings.perceptual, embeddings.quality, strict=True
        ):
            recalled = await search.recall(recall, DEPTH)
            ids = [one.training_image_id for one in recalled]
            groups = {one.training_image_id: duplicate_group(one.payload) for one in recalled}
            reranked = await search.rerank(perceptual, ids, DEPTH)
            found.append(
                Found(
                    tuple(ids),
                    tuple(distance_millionths(1 - one.clip_similarity) for one in recalled),
                    tuple(one.training_image_id for one in reranked),
                    tuple(distance_millionths(one.perceptual_distance) for one in reranked),
                    float(quality),
                    tuple(groups[one.training_image_id] or one.training_image_id for one in reranked),
                )
            )
        return found
    finally:
        await search.close()
