"""Ranking of a generated image's candidates: recall, re-ranking, and the search for works in parts of the image."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from attributor.core.loop_fairness import LoopScheduler
from attributor.workers.model_worker import Features
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.schema import duplicate_group
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ledger.allocation import MAX_NEAR_MISSES, Group, ScoredCandidate, rank
from gmvaluator.local_features.sightings import (
    NOTHING_SEEN,
    WINDOW_DEPTH,
    SeenParts,
    examine,
    to_examine,
    window_sightings,
)
from gmvaluator.ports import Candidate, CandidateSearch, Neighbour
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION, distance_millionths
from gmvaluator.windows import WINDOW_MASKS

Out = TypeVar("Out")


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Out]) -> AsyncIterator[Awaitable[Out]]:
    """Start `work` in a task, to be awaited within the block; the task is cancelled if the block ends before it."""
    task = asyncio.create_task(work)
    # The task runs up to its first await, so that its request is sent before the block's own.
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        if not task.cancel():
            # Retrieve the error, or asyncio logs it: it was raised by an await, or an earlier error took its place.
            _ = task.cancelled() or task.exception()


@dataclass(frozen=True, slots=True)
class Recalled:
    """Candidates of the index, nearest first: of the whole image, and of each of its windows (see `windows.WINDOWS`).

    windows: empty if the policy does not look at parts.
    """

    whole: Sequence[Candidate]
    windows: Sequence[Sequence[Candidate]] = ()

    def candidates(self) -> dict[TrainingImageId, Candidate]:
        """Return every candidate once. One that only windows recalled has their similarity."""
        lists = (self.whole, *self.windows)
        by_work: dict[TrainingImageId, Candidate] = {}
        for candidate in (candidate for candidates in lists for candidate in candidates):
            by_work.setdefault(candidate.training_image_id, candidate)
        return by_work


@dataclass(frozen=True, slots=True)
class Reranked:
    """The result of re-ranking.

    paid: groups that are paid, in order. scored: all candidates that were compared. unlisted: candidates that were
    recalled and not compared. recall: share of the true neighbours that the index finds; None if it was never measured.
    content: mask of the image's cells that show anything; None if its parts were not examined.
    """

    paid: list[Group]
    scored: list[ScoredCandidate]
    unlisted: int
    recall: float | None
    content: int | None

    @property
    def works(self) -> list[TrainingImageId]:
        """Works whose rights are needed."""
        return [member.training_image_id for group in self.paid for member in group.members]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranking of one image's candidates by a policy. features, local: of the image. executor: for blocking work.

    recall: see `Reranked`; read only if the policy needs it.
    """

    search: CandidateSearch
    policy: Policy
    features: Features
    local: LocalFeatures | None
    executor: Executor
    scheduler: LoopScheduler
    measured_recall: Callable[[], Awaitable[float | None]]

    @property
    def examines_parts(self) -> bool:
        return self.policy.parts is not None and self.local is not None and len(self.features.windows) > 0

    async def recall(self, data_sets: Sequence[str]) -> Recalled:
        """Recall candidates by the image, and by its windows where the policy counts parts."""
        depth, vector = self.policy.depth, self.features.recall
        if not self.examines_parts:
            return Recalled(await self.search.recall(vector, depth, data_sets))
        windows = self.features.windows
        return Recalled(*await self.search.recall_with_windows(vector, depth, windows, WINDOW_DEPTH, data_sets))

    async def rerank(self, recalled: Recalled) -> Reranked:
        """Compare candidates by perceptual distance, look for them in the image, and rank them.

        A policy with groups joins near-duplicates before it takes the first k, so it compares all candidates.
        """
        policy, candidates = self.policy, recalled.candidates()
        count = policy.k + MAX_NEAR_MISSES if policy.groups is None and policy.parts is None else len(candidates)
        neighbours = await self.search.rerank(self.features.perceptual, list(candidates), count)
        await self.scheduler.yield_turn()
        seen = await self._examined(recalled, neighbours)
        scored = [self._scored(neighbour, candidates[neighbour.training_image_id], seen) for neighbour in neighbours]
        recall = await self.measured_recall() if policy.uncertainty is not None else None
        paid, _ = rank(scored, policy)
        return Reranked(paid, scored, len(candidates) - len(scored), recall, seen.content)

    async def _examined(self, recalled: Recalled, neighbours: Sequence[Neighbour]) -> SeenParts:
        """Return where the likeliest candidates are in the image."""
        if not self.examines_parts:
            return NOTHING_SEEN
        assert self.local is not None
        sightings = window_sightings(recalled.windows, WINDOW_MASKS)
        works = to_examine((neighbour.training_image_id for neighbour in neighbours), sightings)
        features = await self.search.local_features(works)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, examine, self.local, features, sightings)

    def _scored(self, neighbour: Neighbour, candidate: Candidate, seen: SeenParts) -> ScoredCandidate:
        work = neighbour.training_image_id
        return ScoredCandidate(
            work,
            distance_millionths(neighbour.perceptual_distance),
            round(candidate.clip_similarity * MILLION),
            None if self.policy.groups is None else duplicate_group(candidate.payload),
            seen.sighting(work),
            seen.work_regions.get(work, 0),
        )
