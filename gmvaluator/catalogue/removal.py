"""Removing works: which are meant, the tombstones that keep them out, and forgetting where they were found.

A tombstone is a hash: the SHA-256 of an image's bytes, and a keyed hash of each data set and key it was found under.
Works and claims stay, without a word about the image: money that was paid refers to them.
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

_AT_ONCE = 5_000
_NAMESPACE = "removed:"
_One = TypeVar("_One")


@dataclass(frozen=True, slots=True)
class Selection:
    """Works of these SHA-256, these keys or these owners. data_set: where keys count, or None for everywhere."""

    sha256s: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    owners: frozenset[OwnerId] = frozenset()
    data_set: str | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """A work to be removed. places: (data set, key) where it was found; none once it has been removed."""

    training_image_id: TrainingImageId
    sha256: str
    places: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """What a selection means. removed_before: of `works`, those under a tombstone already.

    shared: works by owner that others claim too. unmatched: keys that mean no work and none that was removed.
    """

    works: tuple[Removal, ...]
    removed_before: int
    shared: int
    unmatched: tuple[str, ...]


def select_removals(connection: Connection, vault: Vault, selection: Selection) -> Selected:
    """The works that are meant. A SHA-256 always means one: what is not known yet can be kept out in advance."""
    by_key, unmatched = _by_key(connection, vault, selection)
    owned = _owned(connection, selection.owners)
    hashes = dict(_hashes(connection, by_key | owned))
    hashes.update({training_image_id(sha256): sha256 for sha256 in selection.sha256s})
    places = _places(connection, hashes)
    found = tuple(Removal(one, hashes[one], tuple(sorted(places.get(one, ())))) for one in sorted(hashes))
    before = _tombstoned(connection, hashes.values())
    return Selected(found, len(before), _shared(connection, owned, selection.owners), tuple(sorted(unmatched)))


def add_tombstones(connection: Connection, vault: Vault, removals: Sequence[Removal], reason: str, at: str) -> None:
    """Lay tombstones, by content and by place."""
    stones = [{"sha256": one.sha256, "reason": reason, "recorded_at": at} for one in removals]
    keys = [{"lookup": _lookup(vault, *place), "recorded_at": at} for one in removals for place in one.places]
    for table, rows in ((tombstones, stones), (removed_keys, keys)):
        for part in _parts(rows):
            connection.execute(insert_missing(connection, table), part)


def erase_sources(connection: Connection, ids: Collection[TrainingImageId]) -> int:
    """Forget where works were found: key, URI, title, licence and labels; the number of places."""
    return sum(
        connection.execute(delete(sources).where(sources.c.training_image_id.in_(part))).rowcount
        for part in _parts(ids)
    )


def find_removed_keys(connection: Connection, vault: Vault, data_set: str, keys: Collection[str]) -> set[str]:
    """Those of `keys` under which a work of this data set was removed."""
    if not keys or connection.execute(select(removed_keys.c.lookup).limit(1)).first() is None:
        return set()
    wanted = {_lookup(vault, data_set, key): key for key in keys}
    found: set[str] = set()
    for part in _parts(wanted):
        rows = connection.execute(select(removed_keys.c.lookup).where(removed_keys.c.lookup.in_(part)))
        found.update(wanted[lookup] for lookup in rows.scalars())
    return found


def unpurged(connection: Connection) -> list[Removal]:
    """Works that were removed since the last purge, by SHA-256."""
    query = select(tombstones.c.sha256).where(tombstones.c.purged_at.is_(None)).order_by(tombstones.c.sha256)
    return [Removal(training_image_id(sha256), sha256) for sha256 in connection.execute(query).scalars()]


def record_purge(connection: Connection, begun_at: str, at: str) -> None:
    """Everything removed until `begun_at` is purged."""
    due = tombstones.c.purged_at.is_(None) & (tombstones.c.recorded_at <= begun_at)
    connection.execute(tombstones.update().where(due).values(purged_at=at))


def active_works(connection: Connection, data_set: str, sha256s: Collection[str], names: Collection[str]) -> set[str]:
    """SHA-256 of works under no tombstone: of those given, and of those with such a key or URI in a data set."""
    query = select(works.c.sha256).where(works.c.sha256.not_in(select(tombstones.c.sha256)))
    found: set[str] = set()
    for part in _parts(sha256s):
        found.update(connection.execute(query.where(works.c.sha256.in_(part))).scalars())
    placed = query.join(sources, sources.c.training_image_id == works.c.training_image_id)
    placed = placed.where(sources.c.data_set == data_set)
    for part in _parts(names):
        found.update(connection.execute(placed.where(sources.c.key.in_(part) | sources.c.uri.in_(part))).scalars())
    return found


def _by_key(connection: Connection, vault: Vault, selection: Selection) -> tuple[set[TrainingImageId], set[str]]:
    found: set[TrainingImageId] = set()
    unmatched = set(selection.keys)
    for part in _parts(selection.keys):
        query = select(sources.c.training_image_id, sources.c.key).where(sources.c.key.in_(part))
        if selection.data_set is not None:
            query = query.where(sources.c.data_set == selection.data_set)
        for row in connection.execute(query):
            found.add(TrainingImageId(row.training_image_id))
            unmatched.discard(row.key)
    names = (
        [selection.data_set]
        if selection.data_set is not None
        else list(connection.execute(select(data_sets.c.name)).scalars())
    )
    for name in names:
        unmatched -= find_removed_keys(connection, vault, name, unmatched)
    return found, unmatched


def _owned(connection: Connection, owners: Collection[OwnerId]) -> set[TrainingImageId]:
    found: set[TrainingImageId] = set()
    for part in _parts(owners):
        query = select(claims.c.training_image_id).where(claims.c.owner_id.in_(part)).distinct()
        found.update(TrainingImageId(one) for one in connection.execute(query).scalars())
    return found


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
    found: dict[TrainingImageId, set[tuple[str, str]]] = {}
    for part in _parts(ids):
        query = select(sources.c.training_image_id, sources.c.data_set, sources.c.key)
        for row in connection.execute(query.where(sources.c.training_image_id.in_(part))):
            found.setdefault(TrainingImageId(row.training_image_id), set()).add((row.data_set, row.key))
    return found


def _tombstoned(connection: Connection, sha256s: Collection[str]) -> set[str]:
    found: set[str] = set()
    for part in _parts(sha256s):
        found.update(connection.execute(select(tombstones.c.sha256).where(tombstones.c.sha256.in_(part))).scalars())
    return found


def _lookup(vault: Vault, data_set: str, key: str) -> str:
    return vault.lookup(_NAMESPACE + data_set, key)


def _parts(values: Iterable[_One]) -> Iterator[list[Any]]:
    iterator = iter(values)
    while part := list(islice(iterator, _AT_ONCE)):
        yield part
