"""Near-duplicate grouping: each work joins the group of an earlier work that is near, or stays alone.

Works are taken in the order in which they were indexed. A work is compared with the first members of its recall
neighbours' groups, never with all works, and joins the nearest that is within the threshold. A member is near its
group's first member, not merely near another member: groups do not chain. Works that were checked are marked in the
index, so a run resumes where the last one ended, checks only new works, and never renames a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gmvaluator.errors import PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.schema import ALONE, KEY_GROUP, duplicate_group
from gmvaluator.ports import Candidate, Point, VectorStore
from gmvaluator.profile import ProfileIdentity

BATCH_WORKS = 64
THRESHOLDS = {"lite": 0.2}
"""Largest distance of a near-duplicate, by profile; `gmvaluator evaluate duplicates` measures it."""

NEIGHBOURS = 50
"""Recall neighbours of a work whose groups it may join."""

_ORDER_WORKS = 10_000
"""Works of one query of the catalogue."""

_LAST = 2**63
"""Position of a work that the catalogue does not know: after all others."""


def measured_threshold(profile: str) -> float | None:
    """Return the threshold measured for a profile, or None."""
    return THRESHOLDS.get(profile)


def default_threshold(identity: ProfileIdentity) -> float:
    """Return the threshold measured for a profile. Raises PreconditionFailed if none was."""
    threshold = measured_threshold(identity.name)
    if threshold is None:
        raise PreconditionFailed(
            f"no distance of near-duplicates was measured for profile {identity.name}: name one by --threshold"
        )
    return threshold


class WorkOrder(Protocol):
    """The order in which works were indexed, as the catalogue records it."""

    def first_seen(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, int]:
        """Return the position of each work's first source among all recorded sources; omit unknown works."""


@dataclass(slots=True)
class Grouped:
    """Progress of a run. checked: works compared so far; joined: those that are near-duplicates of an earlier work."""

    total: int = 0
    checked: int = 0
    joined: int = 0
    groups: set[TrainingImageId] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.checked == self.total


@dataclass(frozen=True)
class Grouper:
    """One run of near-duplicate grouping over one collection.

    threshold: the largest perceptual distance of a near-duplicate, in [0, 2].
    """

    store: VectorStore
    order: WorkOrder
    threshold: float
    _expected: dict[TrainingImageId, TrainingImageId] = field(default_factory=dict)
    """Unchecked works to the earliest first member that has them among its neighbours.

    Needed where a work has so many near-duplicates that its own neighbours are all works that come later.
    """

    def run(
        self, advance: Callable[[Grouped], None] = lambda _: None, stopping: Callable[[], bool] = lambda: False
    ) -> Grouped:
        """Check every unchecked work; stop between batches once `stopping` returns True."""
        waiting = self._ordered(self.store.ungrouped())
        result = Grouped(len(waiting))
        for start in range(0, len(waiting), BATCH_WORKS):
            if stopping():
                break
            batch = waiting[start : start + BATCH_WORKS]
            self._check(self._fetched(batch), result)
            result.checked += len(batch)
            advance(result)
        return result

    def _ordered(self, works: Sequence[TrainingImageId]) -> list[TrainingImageId]:
        positions: dict[TrainingImageId, int] = {}
        for start in range(0, len(works), _ORDER_WORKS):
            positions |= self.order.first_seen(works[start : start + _ORDER_WORKS])
        return sorted(works, key=lambda work: (positions.get(work, _LAST), work))

    def _fetched(self, batch: Sequence[TrainingImageId]) -> list[Point]:
        points = {point.training_image_id: point for point in self.store.fetch(batch)}
        return [points[work] for work in batch if work in points]

    def _check(self, batch: Sequence[Point], result: Grouped) -> None:
        """Choose a group for each point of a batch, in order, and mark them in the index."""
        near = self.store.neighbours([point.recall for point in batch], NEIGHBOURS)
        firsts = self._firsts(batch, near)
        chosen: dict[TrainingImageId, TrainingImageId] = {}
        for point, candidates in zip(batch, near, strict=True):
            names = self._names(candidates, chosen)
            first = self._choose(point, [firsts[name] for name in names if name in firsts])
            chosen[point.training_image_id] = first
            self._expected.pop(point.training_image_id, None)
            if first == point.training_image_id:
                self._expect(first, candidates, chosen)
        self._mark(chosen, result)

    def _expect(
        self,
        first: TrainingImageId,
        candidates: Sequence[Candidate],
        chosen: dict[TrainingImageId, TrainingImageId],
    ) -> None:
        for candidate in candidates:
            if candidate.training_image_id not in chosen and KEY_GROUP not in candidate.payload:
                self._expected.setdefault(candidate.training_image_id, first)

    def _names(
        self, candidates: Sequence[Candidate], chosen: dict[TrainingImageId, TrainingImageId]
    ) -> set[TrainingImageId]:
        """Return the first members of the neighbours' groups; unchecked neighbours may have none."""
        firsts = (self._first_of(candidate, chosen) for candidate in candidates)
        return {first for first in firsts if first is not None}

    def _first_of(self, candidate: Candidate, chosen: dict[TrainingImageId, TrainingImageId]) -> TrainingImageId | None:
        if candidate.training_image_id in chosen:
            return chosen[candidate.training_image_id]
        if KEY_GROUP in candidate.payload:
            return duplicate_group(candidate.payload) or candidate.training_image_id
        return self._expected.get(candidate.training_image_id)

    def _firsts(self, batch: Sequence[Point], near: Sequence[Sequence[Candidate]]) -> dict[TrainingImageId, Point]:
        """Return the points of the batch, and of the first members of its neighbours' groups."""
        known = {point.training_image_id: point for point in batch}
        names = {name for candidates in near for name in self._names(candidates, {})}
        return known | {point.training_image_id: point for point in self.store.fetch(sorted(names - known.keys()))}

    def _choose(self, point: Point, firsts: Sequence[Point]) -> TrainingImageId:
        """Return the nearest of `firsts` that is within the threshold, or the work itself."""
        near = [(whole_distance(point, first), first.training_image_id) for first in firsts]
        within = [pair for pair in near if pair[0] <= self.threshold and pair[1] != point.training_image_id]
        return min(within)[1] if within else point.training_image_id

    def _mark(self, chosen: dict[TrainingImageId, TrainingImageId], result: Grouped) -> None:
        # Works alone first: a member must never be marked before its group's first member is, or a run that is killed
        # in between would leave a group without its first.
        alone = [work for work, first in chosen.items() if work == first]
        if alone:
            self.store.set_group(alone, ALONE)
        for first in dict.fromkeys(first for work, first in chosen.items() if work != first):
            members = [work for work, other in chosen.items() if other == first and work != first]
            # The first too, as it may have been marked as alone.
            self.store.set_group([first, *members], str(first))
            result.joined += len(members)
            result.groups.add(first)


def whole_distance(point: Point, other: Point) -> float:
    """Return 1 - cosine of two whole images, the first of their views; in [0, 2], lower is nearer."""
    return float(1 - point.perceptual[0].astype(np.float64) @ other.perceptual[0].astype(np.float64))
