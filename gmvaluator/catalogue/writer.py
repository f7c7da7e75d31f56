"""Writer of works and owners: a batch in one transaction; recording the same batch again changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from gmvaluator.catalogue.corrections import OwnerStatements, named_owners
from gmvaluator.catalogue.records import NewWork, OwnerReference, Recorded
from gmvaluator.catalogue.schema import (
    data_sets,
    erased_owners,
    owner_references,
    owners,
    sources,
    tombstones,
    works,
)
from gmvaluator.catalogue.source_rows import refresh_sources
from gmvaluator.catalogue.vault import Vault
from gmvaluator.ids import OwnerId, new_owner_id
from gmvaluator.storage.schema import BEGINNING, insert_missing
from gmvaluator.text import other_spellings

MAX_BATCH = 5_000
"""Limit of works in one transaction."""

_LOOKUPS_PER_QUERY = 1_000

MANIFEST_ID, NAME, CONTACT = "manifest_id", "name", "contact"
"""Kinds of references to an owner."""

OwnerKey = tuple[str, str]
"""Namespace and manifest id, which identify an owner in manifests."""


class BatchRecorder:
    """A writer of works within the transaction of a connection; the caller commits.

    run_began: rows since then are of the same run, UTC text.
    """

    def __init__(self, connection: Connection, vault: Vault, recorded_at: str, run_began: str = BEGINNING) -> None:
        self._connection = connection
        self._vault = vault
        self._at = recorded_at
        self._run_began = run_began

    def record(self, batch: Sequence[NewWork]) -> Recorded:
        """Add the works, sources, owners and claims that are new; replace claims of owners that were corrected.

        Works with a tombstone are refused. A new work whose owner was erased is refused, too; a known one gets no claim
        of that owner.
        """
        removed = self._tombstoned(batch)
        present = [work for work in batch if work.sha256 not in removed]
        erased = self.erased({_owner_key(work.owner) for work in present if work.owner is not None})
        accepted = self._without_new_works_of(erased, present)
        if erased:
            accepted = [replace(work, owner=None) if _is_of(work, erased) else work for work in accepted]
        kept = {work.sha256 for work in accepted}
        self._add(data_sets, [{"name": name, "added_at": self._at} for name in {work.data_set for work in accepted}])
        owner_ids = self.owners({work.owner for work in accepted if work.owner is not None})
        added = self._add(works, _unique(_work_row(work, self._at) for work in accepted))
        numbers, new_sources = refresh_sources(self._connection, accepted, owner_ids, self._at)
        statements = OwnerStatements(self._connection, self._at, self._run_began, accepted)
        return Recorded(
            works=added,
            sources=self._add(sources, new_sources),
            claims=statements.apply(named_owners(zip(accepted, numbers, strict=True), owner_ids)),
            refused=tuple(work.training_image_id for work in batch if work.sha256 not in kept),
        )

    def _add(self, table: Table, rows: Sequence[dict[str, Any]]) -> int:
        """Insert the rows whose keys are new; return their number."""
        if not rows:
            return 0
        statement = insert_missing(self._connection, table).execution_options(preserve_rowcount=True)
        added: int = self._connection.execute(statement, rows).rowcount
        return added

    def _without_new_works_of(self, erased: Collection[OwnerKey], batch: Sequence[NewWork]) -> list[NewWork]:
        """Return the batch without works that only erased owners have, and that the catalogue does not know."""
        if not erased:
            return list(batch)
        others = {work.sha256 for work in batch if not _is_of(work, erased)}
        hashes = {work.sha256 for work in batch} - others
        known = set(self._connection.execute(select(works.c.sha256).where(works.c.sha256.in_(hashes))).scalars())
        return [work for work in batch if work.sha256 in known | others]

    def _tombstoned(self, batch: Sequence[NewWork]) -> set[str]:
        query = select(tombstones.c.sha256).where(tombstones.c.sha256.in_({work.sha256 for work in batch}))
        return set(self._connection.execute(query).scalars())

    def owners(self, references: Iterable[OwnerReference]) -> dict[OwnerKey, OwnerId]:
        """Return the owner of each (namespace, manifest id); create those that are new. None of them may be erased."""
        names = {(reference.namespace, reference.manifest_id): reference.display_name for reference in references}
        known = self.known_owners(names)
        for key, name in names.items():
            if key in known:
                self._rename(known[key], name)
            else:
                known[key] = self._new_owner(self._vault.lookup(*key), key[1], name or key[1])
        return known

    def erased(self, keys: Iterable[OwnerKey]) -> set[OwnerKey]:
        """Return those of `keys` whose owners were erased."""
        return erased_among(self._connection, self._vault, keys)

    def known_owners(self, keys: Iterable[OwnerKey]) -> dict[OwnerKey, OwnerId]:
        """Return the owners of those of `keys` that were recorded before and not erased since."""
        return find_owners(self._connection, self._vault, keys)

    def set_contact(self, owner_id: OwnerId, contact: str) -> None:
        """Store an owner's contact, encrypted, in place of an earlier one. Does nothing for an erased owner."""
        if not self._vault.has_key(owner_id):
            return
        this = (owner_references.c.owner_id == owner_id) & (owner_references.c.kind == CONTACT)
        values = {**self._reference(owner_id, CONTACT, contact), "lookup": None}
        if self._connection.execute(update(owner_references).where(this).values(values)).rowcount == 0:
            self._connection.execute(insert(owner_references), values)

    def _rename(self, owner_id: OwnerId, display_name: str) -> None:
        """Store the name from the newest manifest, unless it is empty or the owner was erased."""
        if not display_name or not self._vault.has_key(owner_id):
            return
        this = (owner_references.c.owner_id == owner_id) & (owner_references.c.kind == NAME)
        ciphertext = self._connection.execute(select(owner_references.c.ciphertext).where(this)).scalar_one()
        # Compared in the clear: a new ciphertext of the same name would rewrite the row at every import.
        if self._vault.decrypt(owner_id, NAME, ciphertext) != display_name:
            values = self._reference(owner_id, NAME, display_name)
            self._connection.execute(update(owner_references).where(this).values(values))

    def _new_owner(self, lookup: str, manifest_id: str, display_name: str) -> OwnerId:
        owner_id = new_owner_id()
        # Before the row: a key without an owner is harmless, an owner without its key is lost.
        self._vault.create_key(owner_id)
        self._connection.execute(insert(owners), {"owner_id": owner_id, "recorded_at": self._at})
        rows = [
            {**self._reference(owner_id, MANIFEST_ID, manifest_id), "lookup": lookup},
            {**self._reference(owner_id, NAME, display_name), "lookup": None},
        ]
        self._connection.execute(insert(owner_references), rows)
        return owner_id

    def _reference(self, owner_id: OwnerId, kind: str, text: str) -> dict[str, Any]:
        ciphertext = self._vault.encrypt(owner_id, kind, text)
        return {"owner_id": owner_id, "kind": kind, "ciphertext": ciphertext, "recorded_at": self._at}


def find_owners(connection: Connection, vault: Vault, keys: Iterable[OwnerKey]) -> dict[OwnerKey, OwnerId]:
    """Return the owners of those of `keys` that are recorded; keys have normal identifiers.

    An owner that was recorded before identifiers were normalised is found by the spelling of that time.
    """
    spellings = _spellings(vault, keys)
    ranked: dict[OwnerKey, tuple[int, OwnerId]] = {}
    query = select(owner_references.c.lookup, owner_references.c.owner_id)
    lookups = list(spellings)
    for start in range(0, len(lookups), _LOOKUPS_PER_QUERY):
        part = lookups[start : start + _LOOKUPS_PER_QUERY]
        for row in connection.execute(query.where(owner_references.c.lookup.in_(part))):
            rank, key = spellings[row.lookup]
            ranked[key] = min(ranked.get(key, (rank, OwnerId(row.owner_id))), (rank, OwnerId(row.owner_id)))
    return {key: owner_id for key, (_, owner_id) in ranked.items()}


def erased_among(connection: Connection, vault: Vault, keys: Iterable[OwnerKey]) -> set[OwnerKey]:
    """Return those of `keys` whose owners were erased."""
    # Without any erasure, which is usual, nothing need be hashed.
    if connection.execute(select(erased_owners.c.lookup).limit(1)).first() is None:
        return set()
    erased: set[OwnerKey] = set()
    spellings = _spellings(vault, keys)
    lookups = list(spellings)
    for start in range(0, len(lookups), _LOOKUPS_PER_QUERY):
        part = lookups[start : start + _LOOKUPS_PER_QUERY]
        rows = connection.execute(select(erased_owners.c.lookup).where(erased_owners.c.lookup.in_(part)))
        erased.update(spellings[lookup][1] for lookup in rows.scalars())
    return erased


def _spellings(vault: Vault, keys: Iterable[OwnerKey]) -> dict[str, tuple[int, OwnerKey]]:
    """Return the lookup of every spelling of the keys, with its rank and the key."""
    return {
        vault.lookup(namespace, spelling): (rank, (namespace, identifier))
        for namespace, identifier in keys
        for rank, spelling in enumerate((identifier, *other_spellings(identifier)))
    }


def keep_owner_out(connection: Connection, lookup: str, at: str) -> None:
    """Add the tombstone of an owner, so that no import records the owner again."""
    connection.execute(insert_missing(connection, erased_owners), {"lookup": lookup, "recorded_at": at})


def delete_references(connection: Connection, owner_id: OwnerId, forgotten_at: str) -> int:
    """Replace the references of an owner by a tombstone, but keep its UUID; return the number deleted."""
    lookups = select(owner_references.c.lookup).where(owner_references.c.owner_id == owner_id)
    for lookup in connection.execute(lookups.where(owner_references.c.lookup.is_not(None))).scalars().all():
        keep_owner_out(connection, lookup, forgotten_at)
    removed = connection.execute(owner_references.delete().where(owner_references.c.owner_id == owner_id)).rowcount
    first_time = (owners.c.owner_id == owner_id) & owners.c.forgotten_at.is_(None)
    connection.execute(update(owners).where(first_time).values(forgotten_at=forgotten_at))
    return removed


def _owner_key(owner: OwnerReference) -> OwnerKey:
    return owner.namespace, owner.manifest_id


def _is_of(work: NewWork, owners: Collection[OwnerKey]) -> bool:
    return work.owner is not None and _owner_key(work.owner) in owners


def _unique(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # A batch may hold one image several times, under several keys.
    return list({row["training_image_id"]: row for row in rows}.values())


def _work_row(work: NewWork, at: str) -> dict[str, Any]:
    return {
        "training_image_id": work.training_image_id,
        "sha256": work.sha256,
        "width": work.width,
        "height": work.height,
        "added_at": at,
    }
