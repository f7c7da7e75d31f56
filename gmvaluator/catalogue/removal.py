"""Removal of works: selecting them, adding tombstones, and deleting their sources.

A tombstone is a hash: the SHA-256 of an image's bytes, and a keyed hash of each data set and key under which it was
found. Works and claims stay, without any text about the image, because postings refer to them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, delete, select

from gmvaluator.catalogue.schema import claims, data_sets, removed_keys, sources, tombstones, works
from gmvaluator.catalogue.vault import Vault
from gmvaluator.ids import OwnerId, TrainingImageId, training_image_id
from gmvaluator.storage.schema import insert_missing

_IDS_PER_QUERY = 5_000
_NAMESPACE = "removed:"
"""Prefix of the namespace of hashed keys, which keeps them apart from hashed owner ids."""
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Selection:
    """Criteria of a removal: SHA-256s, keys or owners. data_set: where `keys` are looked up; None for everywhere."""

    sha256s: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    owners: frozenset[OwnerId] = frozenset()
    data_set: str | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """A work to remove. places: its sources as (data set, key); empty once it has been removed."""

    training_image_id: TrainingImageId
    sha256: str
    places: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """The works that a selection matches.

    removed_before: number of `works` that have a tombstone already. shared: number of works selected by owner that
    other owners claim too. unmatched: keys of no work, present or removed.
    """

    works: tuple[Removal, ...]
    removed_before: int
    shared: int
    unmatched: tuple[str, ...]


def select_removals(connection: Connection, vault: Vault, selection: Selection) -> Selected:
    """Return the works that a selection matches.

    A SHA-256 always matches a work: one that is not indexed yet is kept out in advance.
    """
    by_key, unmatched = _by_key(connection, vault, selection)
    owned = _owned(connection, selection.owners)
    hashes = dict(_hashes(connection, by_key | owned))
    hashes.update({training_image_id(sha256): sha256 for sha256 in selection.sha256s})
    places = _places(connection, hashes)
    removals = tuple(Removal(work, hashes[work], tuple(sorted(places.get(work, ())))) for work in sorted(hashes))
    before = _tombstoned(connection, hashes.values())
    return Selected(removals, len(before), _shared(connection, owned, selection.owners), tuple(sorted(unmatched)))


def add_tombstones(connection: Connection, vault: Vault, removals: Sequence[Removal], reason: str, at: str) -> None:
    """Add tombstones, by content and by source. Works that have one are left alone."""
    hashes = [{"sha256": work.sha256, "reason": reason, "recorded_at": at} for work in removals]
    keys = [{"lookup": _lookup(vault, *place), "recorded_at": at} for work in removals for place in work.places]
    for table, rows in ((tombstones, hashes), (removed_keys, keys)):
        for part in _parts(rows):
            connection.execute(insert_missing(connection, table), part)


def erase_sources(connection: Connection, ids: Collection[TrainingImageId]) -> int:
    """Delete the sources of works (key, URI, title, licence and labels); return the number of rows."""
    return sum(
        connection.execute(delete(sources).where(sources.c.training_image_id.in_(part))).rowcount
        for part in _parts(ids)
    )


def find_removed_keys(connection: Connection, vault: Vault, data_set: str, keys: Collection[str]) -> set[str]:
    """Return those of `keys` under which a work of this data set was removed."""
    # Without any removal, which is usual, the keys need not be hashed.
    if not keys or connection.execute(select(removed_keys.c.lookup).limit(1)).first() is None:
        return set()
    key_of = {_lookup(vault, data_set, key): key for key in keys}
    removed: set[str] = set()
    for part in _parts(key_of):
        rows = connection.execute(select(removed_keys.c.lookup).where(removed_keys.c.lookup.in_(part)))
        removed.update(key_of[lookup] for lookup in rows.scalars())
    return removed


def unpurged(connection: Connection) -> list[Removal]:
    """Return the works that were removed since the last purge, by SHA-256."""
    query = select(tombstones.c.sha256).where(tombstones.c.purged_at.is_(None)).order_by(tombstones.c.sha256)
    return [Removal(training_image_id(sha256), sha256) for sha256 in connection.execute(query).scalars()]


def record_purge(connection: Connection, begun_at: str, at: str) -> None:
    """Record that every work removed until `begun_at` is purged."""
    due = tombstones.c.purged_at.is_(None) & (tombstones.c.recorded_at <= begun_at)
    connection.execute(tombstones.update().where(due).values(purged_at=at))


def active_works(connection: Connection, data_set: str, sha256s: Collection[str], names: Collection[str]) -> set[str]:
    """Return the SHA-256s of works without a tombstone: those in `sha256s`, and those with a key or URI in `names`.

    data_set: where `names` are looked up.
    """
    query = select(works.c.sha256).where(works.c.sha256.not_in(select(tombstones.c.sha256)))
    active: set[str] = set()
    for part in _parts(sha256s):
        active.update(connection.execute(query.where(works.c.sha256.in_(part))).scalars())
    by_name = query.join(sources, sources.c.training_image_id == works.c.training_image_id)
    by_name = by_name.where(sources.c.data_set == data_set)
    for part in _parts(names):
        active.update(connection.execute(by_name.where(sources.c.key.in_(part) | sources.c.uri.in_(part))).scalars())
    return active


def _by_key(connection: Connection, vault: Vault, selection: Selection) -> tuple[set[TrainingImageId], set[str]]:
    ids: set[TrainingImageId] = set()
    unmatched = set(selection.keys)
    for part in _parts(selection.keys):
        query = select(sources.c.training_image_id, sources.c.key).where(sources.c.key.in_(part))
        if selection.data_set is not None:
            query = query.where(sources.c.data_set == selection.data_set)
        for row in connection.execute(query):
            ids.add(TrainingImageId(row.training_image_id))
            unmatched.discard(row.key)
    names = (
        [selection.data_set]
        if selection.data_set is not None
        else list(connection.execute(select(data_sets.c.name)).scalars())
    )
    for name in names:
        unmatched -= find_removed_keys(connection, vault, name, unmatched)
    return ids, unmatched


def _owned(connection: Connection, owners: Collection[OwnerId]) -> set[TrainingImageId]:
    ids: set[TrainingImageId] = set()
    for part in _parts(owners):
        query = select(claims.c.training_image_id).where(claims.c.owner_id.in_(part)).distinct()
        ids.update(TrainingImageId(work) for work in connection.execute(query).scalars())
    return ids


def _shared(connection: Connection, ids: Collection[TrainingImageId], owners: Collection[OwnerId]) -> int:
    shared: set[UUID] = set()
    for part in _parts(ids):
        query = select(claims.c.training_image_id).where(claims.c.training_image_id.in_(part))
        shared.update(connection.execute(query.where(claims.c.owner_id.not_in(owners))).scalars())
    return len(shared)


def _hashes(connection: Connection, ids: Collection[TrainingImageId]) -> Iterator[tuple[TrainingImageId, str]]:
    for part in _parts(ids):
        query = select(works.c.training_image_id, works.c.sha256).where(works.c.training_image_id.in_(part))
        yield from ((TrainingImageId(row[0]), row[1]) for row in connection.execute(query))


def _places(connection: Connection, ids: Collection[TrainingImageId]) -> dict[TrainingImageId, set[tuple[str, str]]]:
    places: dict[TrainingImageId, set[tuple[str, str]]] = {}
    for part in _parts(ids):
        query = select(sources.c.training_image_id, sources.c.data_set, sources.c.key)
        for row in connection.execute(query.where(sources.c.training_image_id.in_(part))):
            places.setdefault(TrainingImageId(row.training_image_id), set()).add((row.data_set, row.key))
    return places


def _tombstoned(connection: Connection, sha256s: Collection[str]) -> set[str]:
    removed: set[str] = set()
    for part in _parts(sha256s):
        removed.update(connection.execute(select(tombstones.c.sha256).where(tombstones.c.sha256.in_(part))).scalars())
    return removed


def _lookup(vault: Vault, data_set: str, key: str) -> str:
    return vault.lookup(_NAMESPACE + data_set, key)


def _parts(values: Iterable[_Value]) -> Iterator[list[Any]]:
    iterator = iter(values)
    while part := list(islice(iterator, _IDS_PER_QUERY)):
        yield part
