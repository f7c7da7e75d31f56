"""Recording rows of rights: a work's rows are taken together, or all rejected if their parts do not add up."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from gmvaluator.catalogue.claiming.file import ClaimRow, RejectedRow, WorkName
from gmvaluator.catalogue.claiming.splits import wrong_sum
from gmvaluator.catalogue.records import OwnerReference
from gmvaluator.catalogue.schema import claims, former_claims, sources, works
from gmvaluator.catalogue.vault import Vault
from gmvaluator.catalogue.writer import BatchRecorder, OwnerKey
from gmvaluator.ids import OwnerId, TrainingImageId

_AT_ONCE = 400
"""Works in one question."""

_CLAIM_COLUMNS = (
    "training_image_id",
    "owner_id",
    "share_ppm",
    "valid_from",
    "valid_to",
    "origin",
    "recorded_at",
)

_Key = tuple[uuid.UUID, str, str]
"""owner, origin, valid_from: what makes a claim on a work unique."""


@dataclass(slots=True)
class ImportedClaims:
    """What became of rows: rows = added + changed + unchanged + withdrawn + rejected. works: those with a change."""

    rows: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    works: set[TrainingImageId] = field(default_factory=set)
    rejected: list[RejectedRow] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        counts = {name: getattr(self, name) for name in ("rows", "added", "changed", "unchanged", "withdrawn")}
        rejects = [{"line": one.line, "reason": one.reason} for one in sorted(self.rejected, key=lambda one: one.line)]
        return {**counts, "rejected": len(rejects), "works": len(self.works), "rejects": rejects}


class ClaimImporter:
    """Imports rows on a connection that is in a transaction; the caller commits."""

    def __init__(self, connection: Connection, vault: Vault, recorded_at: str, partial: bool) -> None:
        self._connection = connection
        self._recorder = BatchRecorder(connection, vault, recorded_at)
        self._at = recorded_at
        self._partial = partial
        self._known: dict[OwnerKey, OwnerId] = {}
        self._named: set[OwnerReference] = set()
        self._new: list[dict[str, Any]] = []

    def take(self, grouped: Sequence[tuple[TrainingImageId, Sequence[ClaimRow]]], counted: ImportedClaims) -> None:
        """Record the rows of each work, or reject all of a work's."""
        for start in range(0, len(grouped), _AT_ONCE):
            some = grouped[start : start + _AT_ONCE]
            keys = {_owner_key(row) for _, rows in some for row in rows} - self._known.keys()
            self._known |= self._recorder.known_owners(keys)
            stored = self._claims_on([work for work, _ in some])
            for work, rows in some:
                self._take_work(work, rows, stored.get(work, {}), counted)
            if self._new:
                self._connection.execute(insert(claims), self._new)
                self._new.clear()

    def _take_work(
        self, work: TrainingImageId, rows: Sequence[ClaimRow], stored: dict[_Key, Row[Any]], counted: ImportedClaims
    ) -> None:
        counted.rows += len(rows)
        reason = self._objection(rows, stored, self._known)
        if reason is not None:
            counted.rejected += [RejectedRow(row.line, reason) for row in rows]
            return
        self._meet([row.owner for row in rows if row.owner not in self._named])
        for row in rows:
            owner_id = self._known[_owner_key(row)]
            if row.contact:
                self._recorder.set_contact(owner_id, row.contact)
            self._apply(work, row, owner_id, stored.get((owner_id, row.origin, row.valid_from)), counted)

    def _meet(self, owners: Sequence[OwnerReference]) -> None:
        """Make owners that are new, and take over names that are."""
        if owners:
            self._known |= self._recorder.owners(owners)
            self._named.update(owners)

    def _claims_on(self, ids: Sequence[TrainingImageId]) -> dict[uuid.UUID, dict[_Key, Row[Any]]]:
        found: dict[uuid.UUID, dict[_Key, Row[Any]]] = {}
        for row in self._connection.execute(select(claims).where(claims.c.training_image_id.in_(ids))):
            found.setdefault(row.training_image_id, {})[_key(row)] = row
        return found

    def _objection(
        self, rows: Sequence[ClaimRow], stored: dict[_Key, Row[Any]], known: dict[OwnerKey, OwnerId]
    ) -> str | None:
        """Why the rows cannot be taken; None if they can."""
        after = {
            (owner, origin, begin): (begin, row.valid_to, row.share_ppm)
            for (owner, origin, begin), row in stored.items()
        }
        seen: dict[_Key, int] = {}
        strangers: dict[OwnerKey, uuid.UUID] = {}
        for row in rows:
            owner = known.get(_owner_key(row)) or strangers.setdefault(_owner_key(row), uuid.uuid4())
            key = owner, row.origin, row.valid_from
            if key in seen:
                return f"line {row.line} names the same claim as line {seen[key]}"
            seen[key] = row.line
            if row.share_ppm:
                after[key] = row.valid_from, row.valid_to, row.share_ppm
            elif after.pop(key, None) is None:
                return f"line {row.line} withdraws a claim that is not there"
        for origin in sorted({row.origin for row in rows}):
            wrong = wrong_sum([split for (_, other, _), split in after.items() if other == origin], self._partial)
            if wrong is not None:
                return f"by origin {origin}, {wrong}"
        return None

    def _apply(
        self,
        work: TrainingImageId,
        row: ClaimRow,
        owner_id: OwnerId,
        before: Row[Any] | None,
        counted: ImportedClaims,
    ) -> None:
        values = {"share_ppm": row.share_ppm, "valid_to": row.valid_to, "recorded_at": self._at}
        if before is None:
            key = {"training_image_id": work, "owner_id": owner_id, "origin": row.origin, "valid_from": row.valid_from}
            self._new.append({**key, **values})
            counted.added += 1
        elif (before.share_ppm, before.valid_to) == (row.share_ppm, row.valid_to):
            counted.unchanged += 1
            return
        else:
            self._keep_former(before)
            this = claims.c.claim_id == before.claim_id
            if row.share_ppm:
                self._connection.execute(update(claims).where(this).values(values))
                counted.changed += 1
            else:
                self._connection.execute(delete(claims).where(this))
                counted.withdrawn += 1
        counted.works.add(work)

    def _keep_former(self, before: Row[Any]) -> None:
        values = {name: getattr(before, name) for name in _CLAIM_COLUMNS}
        self._connection.execute(insert(former_claims), {**values, "replaced_at": self._at})


def by_work(
    connection: Connection, rows: Iterable[ClaimRow], counted: ImportedClaims
) -> dict[TrainingImageId, list[ClaimRow]]:
    """Rows by the work they name; those that name none, or several, are rejected."""
    named: dict[WorkName, list[ClaimRow]] = {}
    for row in rows:
        named.setdefault(row.work, []).append(row)
    found: dict[TrainingImageId, list[ClaimRow]] = {}
    for name, ids in _resolved(connection, list(named)):
        if len(ids) == 1:
            found.setdefault(ids.pop(), []).extend(named[name])
        else:
            what = f"{len(ids)} works have this key: name it by sha256" if ids else "no such work is in the catalogue"
            counted.rows += len(named[name])
            counted.rejected += [RejectedRow(row.line, what) for row in named[name]]
    return found


def _resolved(connection: Connection, names: Sequence[WorkName]) -> Iterator[tuple[WorkName, set[TrainingImageId]]]:
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        found: dict[WorkName, set[TrainingImageId]] = {name: set() for name in some}
        hashes = [name.sha256 for name in some if name.sha256]
        by_hash = select(works.c.sha256, works.c.training_image_id).where(works.c.sha256.in_(hashes))
        for row in connection.execute(by_hash):
            found[WorkName(sha256=row.sha256)].add(row.training_image_id)
        for data_set in sorted({name.data_set for name in some if name.key}):
            keys = [name.key for name in some if name.data_set == data_set]
            by_key = select(sources.c.key, sources.c.training_image_id)
            for row in connection.execute(by_key.where(sources.c.data_set == data_set, sources.c.key.in_(keys))):
                found[WorkName(data_set=data_set, key=row.key)].add(row.training_image_id)
        yield from found.items()


def _key(row: Row[Any]) -> _Key:
    return row.owner_id, row.origin, row.valid_from


def _owner_key(row: ClaimRow) -> OwnerKey:
    return row.owner.namespace, row.owner.manifest_id
