"""Finds near-copies: each work joins the group of an earlier one that it is near, or stands for itself.

Works are taken in the order in which they were indexed. A work is compared with the first members of its recall
neighbours' groups, never with all works, and joins the nearest that is within the threshold. A member is near its
group's first member, not merely near another member: groups do not chain. What was looked at is marked in the index,
so a run takes up where the last one ended, looks only at what is new, and never renames a group.
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


def measured_threshold(profile: str) -> float | None:
    """What was measured for a profile; None if nobody has."""
    return THRESHOLDS.get(profile)


def default_threshold(identity: ProfileIdentity) -> float:
    """What was measured for a profile. Raises PreconditionFailed if nobody has."""
    found = measured_threshold(identity.name)
    if found is None:
        raise PreconditionFailed(
            f"no distance of near-copies was measured for profile {identity.name}: name one by --threshold"
        )
    return found


class WorkOrder(Protocol):
    """The catalogue: which work came first."""

    def first_seen(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, int]:
        """Place of each work's first source among all that were recorded; unknown works are left out."""


@dataclass(slots=True)
class Grouped:
    """What a run did. looked_at: works taken; joined: those that are near-copies of an earlier one."""

    total: int = 0
    looked_at: int = 0
    joined: int = 0
    groups: set[TrainingImageId] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.looked_at == self.total


@dataclass(frozen=True)
class Grouper:
    """One run over one collection. threshold: the largest perceptual distance of a near-copy, in [0, 2]."""

    store: VectorStore
    order: WorkOrder
    threshold: float
    _awaited: dict[TrainingImageId, TrainingImageId] = field(default_factory=dict)
    """Works that nobody has looked at to the earliest first member that has them among its neighbours: among many
    copies a work's own neighbours may all be copies that come later."""

    def run(
        self, advance: Callable[[Grouped], None] = lambda _: None, stopping: Callable[[], bool] = lambda: False
    ) -> Grouped:
        """Look at every work that nobody has looked at yet; stops between batches once `stopping`."""
        waiting = self._ordered(self.store.ungrouped())
        done = Grouped(len(waiting))
        for start in range(0, len(waiting), BATCH_WORKS):
            if stopping():
                break
            batch = waiting[start : start + BATCH_WORKS]
            self._take(self._fetched(batch), done)
            done.looked_at += len(batch)
            advance(done)
        return done

    def _ordered(self, works: Sequence[TrainingImageId]) -> list[TrainingImageId]:
        seen: dict[TrainingImageId, int] = {}
        for start in range(0, len(works), _AT_ONCE):
            seen |= self.order.first_seen(works[start : start + _AT_ONCE])
        return sorted(works, key=lambda one: (seen.get(one, _LAST), one))

    def _fetched(self, batch: Sequence[TrainingImageId]) -> list[Point]:
        found = {point.training_image_id: point for point in self.store.fetch(batch)}
        return [found[one] for one in batch if one in found]

    def _take(self, batch: Sequence[Point], done: Grouped) -> None:
        near = self.store.neighbours([point.recall for point in batch], NEIGHBOURS)
        firsts = self._firsts(batch, near)
        chosen: dict[TrainingImageId, TrainingImageId] = {}
        for point, candidates in zip(batch, near, strict=True):
            names = self._names(candidates, chosen)
            first = self._choose(point, [firsts[one] for one in names if one in firsts])
            chosen[point.training_image_id] = first
            self._awaited.pop(point.training_image_id, None)
            if first == point.training_image_id:
                self._await(first, candidates, chosen)
        self._mark(chosen, done)

    def _await(
        self,
        first: TrainingImageId,
        candidates: Sequence[Candidate],
        chosen: dict[TrainingImageId, TrainingImageId],
    ) -> None:
        for one in candidates:
            if one.training_image_id not in chosen and KEY_GROUP not in one.payload:
                self._awaited.setdefault(one.training_image_id, first)

    def _names(
        self, candidates: Sequence[Candidate], chosen: dict[TrainingImageId, TrainingImageId]
    ) -> set[TrainingImageId]:
        """First members of the neighbours' groups, as far as anybody has looked."""
        known = (self._first_of(one, chosen) for one in candidates)
        return {name for name in known if name is not None}

    def _first_of(self, one: Candidate, chosen: dict[TrainingImageId, TrainingImageId]) -> TrainingImageId | None:
        if one.training_image_id in chosen:
            return chosen[one.training_image_id]
        if KEY_GROUP in one.payload:
            return duplicate_group(one.payload) or one.training_image_id
        return self._awaited.get(one.training_image_id)

    def _firsts(self, batch: Sequence[Point], near: Sequence[Sequence[Candidate]]) -> dict[TrainingImageId, Point]:
        """The batch, and the first members of its neighbours' groups."""
        known = {point.training_image_id: point for point in batch}
        names = {name for candidates in near for name in self._names(candidates, {})}
        return known | {point.training_image_id: point for point in self.store.fetch(sorted(names - known.keys()))}

    def _choose(self, point: Point, firsts: Sequence[Point]) -> TrainingImageId:
        """The nearest of `firsts` that is within the threshold, or the work itself."""
        near = [(whole_distance(point, one), one.training_image_id) for one in firsts]
        within = [pair for pair in near if pair[0] <= self.threshold and pair[1] != point.training_image_id]
        return min(within)[1] if within else point.training_image_id

    def _mark(self, chosen: dict[TrainingImageId, TrainingImageId], done: Grouped) -> None:
        """Those who stand for themselves first: a member must never be marked before its group's first is."""
        alone = [work for work, first in chosen.items() if work == first]
        if alone:
            self.store.set_group(alone, ALONE)
        for first in dict.fromkeys(first for work, first in chosen.items() if work != first):
            members = [work for work, other in chosen.items() if other == first and work != first]
            self.store.set_group([first, *members], str(first))
            done.joined += len(members)
            done.groups.add(first)


_AT_ONCE = 10_000
_LAST = 2**63


def whole_distance(one: Point, other: Point) -> float:
    """1 - cosine of the two images as wholes, which are the first of their views; in [0, 2], lower is nearer."""
    return float(1 - one.perceptual[0].astype(np.float64) @ other.perceptual[0].astype(np.float64))
