"""Corrections of owners: a manifest that names another owner of a record than before replaces the older claim.

Each source keeps the owner that its record named last. If a later run names another one, the earlier owner's claim of
this data set ends, unless another record of the same image names that owner still; the new claim begins at that time,
and the former one is kept. Two records of one run that name two owners compete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, insert, select, update

from gmvaluator.catalogue.claims import WHOLE_PPM
from gmvaluator.catalogue.records import NewWork
from gmvaluator.catalogue.schema import claims, former_claims, sources
from gmvaluator.catalogue.source_rows import source_is
from gmvaluator.ids import OwnerId
from gmvaluator.storage.schema import BEGINNING, END

_FORMER_COLUMNS = (
    "training_image_id", "owner_id", "share_ppm", "valid_from", "valid_to", "origin", "recorded_at"
)  # fmt: skip

Place = tuple[UUID, str]
"""A work and a data set."""

SourceName = tuple[str, int]
"""The key and number of a source, which tell it from others of its place."""


def data_set_origin(data_set: str) -> str:
    """Return the origin of claims that the records of a data set make."""
    return f"data_set:{data_set}"


@dataclass(slots=True)
class _Known:
    """The stored owners of a work in a data set. owners: each source's newest owner; None: unclear."""

    owners: dict[SourceName, OwnerId | None] = field(default_factory=dict)
    claims: list[Row[Any]] = field(default_factory=list)


class OwnerStatements:
    """The owners that the records of a batch name, applied within the transaction of a connection.

    Create it before the sources of the batch are inserted. at: the time of the change. run_began: claims recorded since
    then are of the same run, UTC texts.
    """

    def __init__(self, connection: Connection, at: str, run_began: str, batch: Sequence[NewWork]) -> None:
        self._connection = connection
        self._at = at
        self._run_began = run_began
        self._known = self._stored(batch)
        self._new: list[dict[str, Any]] = []

    def apply(self, named: Mapping[tuple[Place, SourceName], Sequence[OwnerId]]) -> int:
        """Record the owners that each source names; return the number of claims added."""
        for (place, source), owners in named.items():
            known = self._known.setdefault(place, _Known())
            owner_id = owners[0] if len(set(owners)) == 1 else None
            before = known.owners.get(source)
            if owner_id is not None and owner_id == before:
                continue  # nothing changed, and a claim that was withdrawn since stays withdrawn
            if owner_id is None or self._is_of_this_run(place, before):
                for each in owners:
                    self._claim(place, each, BEGINNING)
                known.owners[source] = None
            else:
                replaced = self._replaced(place, source, owner_id)
                is_clear = before is not None or replaced is not None or self._is_alone(place, owner_id)
                known.owners[source] = owner_id if is_clear or source not in known.owners else None
                self._replace(place, replaced)
                self._claim(place, owner_id, self._at if before is not None or replaced else BEGINNING)
            self._store_owner(place, source, known.owners[source])
        if self._new:
            self._connection.execute(insert(claims), self._new)
        return len(self._new)

    def _stored(self, batch: Sequence[NewWork]) -> dict[Place, _Known]:
        ids = {work.training_image_id for work in batch if work.owner is not None}
        data_sets = {work.data_set for work in batch}
        known: dict[Place, _Known] = {}
        if not ids:
            return known
        columns = sources.c.training_image_id, sources.c.data_set, sources.c.key, sources.c.number, sources.c.owner_id
        query = select(*columns)
        query = query.where(sources.c.training_image_id.in_(ids), sources.c.data_set.in_(data_sets))
        for row in self._connection.execute(query):
            place = row.training_image_id, row.data_set
            known.setdefault(place, _Known()).owners[row.key, row.number] = row.owner_id
        origins = {data_set_origin(data_set): data_set for data_set in data_sets}
        of_works = select(claims).where(claims.c.training_image_id.in_(ids), claims.c.origin.in_(origins))
        for claim in self._connection.execute(of_works):
            known.setdefault((claim.training_image_id, origins[claim.origin]), _Known()).claims.append(claim)
        return known

    def _valid(self, place: Place) -> list[Row[Any]]:
        return [row for row in self._known[place].claims if row.valid_to > self._at]

    def _is_of_this_run(self, place: Place, owner_id: OwnerId | None) -> bool:
        """Return whether this run has recorded a claim of this owner, so that two of its records contradict."""
        return owner_id is not None and any(
            row.owner_id == owner_id and row.recorded_at >= self._run_began for row in self._valid(place)
        )

    def _is_alone(self, place: Place, owner_id: OwnerId) -> bool:
        """Return whether the records of the data set have named no other owner."""
        return all(row.owner_id == owner_id for row in self._valid(place))

    def _replaced(self, place: Place, source: SourceName, owner_id: OwnerId) -> OwnerId | None:
        """Return the owner whose claim ends because the record now names `owner_id`, or None."""
        known = self._known[place]
        before = known.owners.get(source)
        if before is not None:
            others = {owner for name, owner in known.owners.items() if name != source}
            return None if before in others or None in others else before
        # A source that was recorded before owners were kept: a single source's single owner was named by it.
        owners = {OwnerId(row.owner_id) for row in self._valid(place)}
        if source in known.owners and len(known.owners) == 1 and len(owners) == 1 and owner_id not in owners:
            (owner,) = owners
            return None if self._is_of_this_run(place, owner) else owner
        return None

    def _replace(self, place: Place, owner_id: OwnerId | None) -> None:
        """End the claims of an owner, and keep them as they were."""
        for row in [row for row in self._valid(place) if row.owner_id == owner_id]:
            values = {name: getattr(row, name) for name in _FORMER_COLUMNS}
            self._connection.execute(insert(former_claims), {**values, "replaced_at": self._at})
            this = claims.c.claim_id == row.claim_id
            if row.valid_from < self._at:
                ended = {"valid_to": self._at, "recorded_at": self._at}
                self._connection.execute(update(claims).where(this).values(ended))
            else:
                self._connection.execute(delete(claims).where(this))
            self._known[place].claims.remove(row)

    def _claim(self, place: Place, owner_id: OwnerId, valid_from: str) -> None:
        """Add a claim, unless the owner has one."""
        work, data_set = place
        origin = data_set_origin(data_set)
        known = any(row.owner_id == owner_id for row in self._known[place].claims)
        if known and (valid_from == BEGINNING or any(row.owner_id == owner_id for row in self._valid(place))):
            return
        if any(_names(row) == (work, owner_id, origin) for row in self._new):
            return
        times = {"valid_from": valid_from, "valid_to": END, "recorded_at": self._at}
        row = {"training_image_id": work, "owner_id": owner_id, "share_ppm": WHOLE_PPM, "origin": origin}
        self._new.append({**row, **times})

    def _store_owner(self, place: Place, source: SourceName, owner_id: OwnerId | None) -> None:
        self._connection.execute(update(sources).where(source_is(*place, *source)).values(owner_id=owner_id))


def _names(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["training_image_id"], row["owner_id"], row["origin"]


def named_owners(
    batch: Iterable[tuple[NewWork, int]], owner_ids: Mapping[tuple[str, str], OwnerId]
) -> dict[tuple[Place, SourceName], list[OwnerId]]:
    """Return the owners that the records of a batch name, by source. batch: each with its source's number."""
    named: dict[tuple[Place, SourceName], list[OwnerId]] = {}
    for work, number in batch:
        if work.owner is not None:
            owner_id = owner_ids[work.owner.namespace, work.owner.manifest_id]
            named.setdefault(((work.training_image_id, work.data_set), (work.key, number)), []).append(owner_id)
    return named
