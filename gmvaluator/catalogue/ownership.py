"""Counts of works that have an owner, are in suspense or are held, in a catalogue or a data set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Select, case, func, select

from gmvaluator.catalogue.claims import WHOLE_PPM
from gmvaluator.catalogue.schema import claims, sources, tombstones, works
from gmvaluator.ids import TrainingImageId

_IDS_PER_QUERY = 5_000


@dataclass(frozen=True, slots=True)
class Ownership:
    """Numbers of works that are not removed. owned: with a valid claim. held: of these, those whose claims compete."""

    works: int
    owned: int
    held: int

    @property
    def in_suspense(self) -> int:
        """The number of works without an owner, whose credits wait for one."""
        return self.works - self.owned

    def as_dict(self) -> dict[str, int]:
        """Return the numbers as JSON."""
        return {**asdict(self), "in_suspense": self.in_suspense}

    def __str__(self) -> str:
        text = f"{self.owned:,} of {self.works:,} works have an owner, {self.in_suspense:,} are in suspense"
        return f"{text}, {self.held:,} are held: claims compete" if self.held else text


def count_ownership(connection: Connection, at: str, data_set: str | None = None) -> Ownership:
    """Count the works of a data set, or of the catalogue, by the claims valid at `at`, UTC text."""
    claimed = _claimed_ppm(at).subquery()
    listed = select(works.c.training_image_id).where(works.c.sha256.not_in(select(tombstones.c.sha256)))
    if data_set is not None:
        of_data_set = select(sources.c.training_image_id).where(sources.c.data_set == data_set)
        listed = listed.where(works.c.training_image_id.in_(of_data_set))
    counted = listed.subquery()
    row = connection.execute(
        select(
            func.count(),
            func.count(claimed.c.ppm),
            func.coalesce(func.sum(case((claimed.c.ppm > WHOLE_PPM, 1), else_=0)), 0),
        ).select_from(counted.outerjoin(claimed, counted.c.training_image_id == claimed.c.training_image_id))
    ).one()
    return Ownership(*map(int, row))


def held_works(connection: Connection, at: str, ids: Collection[TrainingImageId]) -> set[TrainingImageId]:
    """Return those of `ids` whose claims compete at `at`, UTC text."""
    held: set[TrainingImageId] = set()
    listed = sorted(ids)
    for start in range(0, len(listed), _IDS_PER_QUERY):
        part = listed[start : start + _IDS_PER_QUERY]
        claimed = _claimed_ppm(at, part).subquery()
        query = select(claimed.c.training_image_id).where(claimed.c.ppm > WHOLE_PPM)
        held.update(TrainingImageId(work) for work in connection.execute(query).scalars())
    return held


def _claimed_ppm(at: str, ids: Collection[TrainingImageId] | None = None) -> Select[Any]:
    """Return a query of works and what their owners claim together, as `resolve_claims` adds it up."""
    valid = (claims.c.valid_from <= at) & (claims.c.valid_to > at)
    if ids is not None:
        valid &= claims.c.training_image_id.in_(ids)
    work, owner, origin = claims.c.training_image_id, claims.c.owner_id, claims.c.origin
    by_origin = select(work, owner, func.sum(claims.c.share_ppm).label("ppm")).where(valid)
    first = by_origin.group_by(work, owner, origin).subquery()
    by_owner = select(first.c.training_image_id, func.max(first.c.ppm).label("ppm"))
    second = by_owner.group_by(first.c.training_image_id, first.c.owner_id).subquery()
    by_work = select(second.c.training_image_id, func.sum(second.c.ppm).label("ppm"))
    return by_work.group_by(second.c.training_image_id)
