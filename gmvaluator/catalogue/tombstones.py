"""Tombstones: what removals keep out of later runs, and how a tombstone is taken back.

A tombstone is a hash. The SHA-256 of an image's bytes keeps these bytes out, wherever they are found. If the removal
named a record or a web address, a keyed hash of that keeps out whatever image it holds next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, delete, select

from gmvaluator.catalogue.schema import claims, data_sets, removed_keys, removed_records, tombstones, works
from gmvaluator.catalogue.vault import Vault
from gmvaluator.ids import OwnerId, TrainingImageId, training_image_id
from gmvaluator.storage.schema import insert_missing

_VALUES_PER_QUERY = 5_000
_KEY, _RECORD, _URL = "removed:", "removed record:", "removed url:"
"""Prefixes of the namespaces of hashes, which keep them apart from each other and from hashed owner ids."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a source that is indexed, or could be. uri: file, shard and row. url: web address, or ""."""

    data_set: str
    key: str
    uri: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """A work to remove.

    records: where it was found; empty once it has been removed. named: those that the removal named by key, URI or
    owner. urls: web addresses that it named.
    """

    training_image_id: TrainingImageId
    sha256: str
    records: tuple[Record, ...] = ()
    named: tuple[Record, ...] = ()
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restorable:
    """Tombstones that can be taken back.

    sha256s: images. keys: hashed keys of an older version, whose images are not known. unmatched: names without a
    tombstone. without_tombstones: owners none of whose works was removed. ambiguous: for each key that several removed
    records share, their images' SHA-256s.
    """

    sha256s: tuple[str, ...]
    keys: tuple[str, ...]
    unmatched: tuple[str, ...]
    without_tombstones: tuple[OwnerId, ...]
    ambiguous: dict[str, tuple[str, ...]]


def add_tombstones(connection: Connection, vault: Vault, removals: Sequence[Removal], reason: str, at: str) -> None:
    """Add the tombstones of images, and of the records and URLs that were named. Existing ones are left alone."""
    hashes = [{"sha256": work.sha256, "reason": reason, "recorded_at": at} for work in removals]
    records = [
        {"lookup": lookup, "sha256": work.sha256, "key_lookup": key_lookup, "recorded_at": at}
        for work in removals
        for lookup, key_lookup in _named(vault, work)
    ]
    for table, rows in ((tombstones, hashes), (removed_records, records)):
        for part in parts(rows):
            connection.execute(insert_missing(connection, table), part)


def tombstoned(connection: Connection, sha256s: Collection[str]) -> set[str]:
    """Return those of `sha256s` whose images were removed."""
    return _stored(connection, tombstones.c.sha256, sha256s)


def removed_among(connection: Connection, vault: Vault, records: Collection[Record]) -> set[Record]:
    """Return those of `records` that a removal named, by record, by URL or, in an older version, by key."""
    removed: set[Record] = set()
    for table, lookups_of in ((removed_records, _record_lookups), (removed_keys, _key_lookups)):
        # Without any removal, which is usual, nothing need be hashed.
        if not records or connection.execute(select(table.c.lookup).limit(1)).first() is None:
            continue
        lookups = {record: lookups_of(vault, record) for record in records}
        stored = _stored(connection, table.c.lookup, {lookup for own in lookups.values() for lookup in own})
        removed |= {record for record, own in lookups.items() if not stored.isdisjoint(own)}
    return removed


def removed_names(connection: Connection, vault: Vault, names: Collection[str], data_set: str | None) -> set[str]:
    """Return those of `names` that are a key or URL of a removal. data_set: of the keys; None for every one."""
    return {
        name
        for name, tombstones in _by_name(connection, vault, names, data_set).items()
        if tombstones.sha256s or tombstones.keys
    }


def restorable(
    connection: Connection,
    vault: Vault,
    sha256s: Collection[str],
    names: Collection[str],
    owners: Collection[OwnerId],
    data_set: str | None,
    at: str,
) -> Restorable:
    """Return the tombstones of images by SHA-256, by the key or URL that the removal named, or by owner.

    at: now, UTC text; an owner whose claim has ended cannot take a removal back.
    """
    with_hash = tombstoned(connection, sha256s)
    by_name = _by_name(connection, vault, names, data_set)
    unmatched = {name for name, tombstones in by_name.items() if not (tombstones.sha256s or tombstones.keys)}
    owned = {owner: tombstoned(connection, _owned_sha256s(connection, owner, at)) for owner in owners}
    images = {sha256 for tombstones in by_name.values() for sha256 in tombstones.sha256s}
    return Restorable(
        tuple(sorted(with_hash.union(images, *owned.values()))),
        tuple(sorted({key for tombstones in by_name.values() for key in tombstones.keys})),
        tuple(sorted(unmatched | (set(sha256s) - with_hash))),
        tuple(sorted(owner for owner, removed in owned.items() if not removed)),
        {
            name: tuple(sorted(tombstones.sha256s))
            for name, tombstones in by_name.items()
            if len(tombstones.records) > 1
        },
    )


def take_back(connection: Connection, tombs: Restorable) -> int:
    """Delete tombstones, so that the images can be indexed again; return the number of images."""
    images = 0
    for part in parts(tombs.sha256s):
        images += connection.execute(delete(tombstones).where(tombstones.c.sha256.in_(part))).rowcount
        connection.execute(delete(removed_records).where(removed_records.c.sha256.in_(part)))
    for part in parts(tombs.keys):
        connection.execute(delete(removed_keys).where(removed_keys.c.lookup.in_(part)))
    return images


def unpurged(connection: Connection) -> list[Removal]:
    """Return the works that were removed since the last purge, by SHA-256."""
    query = select(tombstones.c.sha256).where(tombstones.c.purged_at.is_(None)).order_by(tombstones.c.sha256)
    return [Removal(training_image_id(sha256), sha256) for sha256 in connection.execute(query).scalars()]


def record_purge(connection: Connection, begun_at: str, at: str) -> None:
    """Record that every work removed until `begun_at` is purged."""
    due = tombstones.c.purged_at.is_(None) & (tombstones.c.recorded_at <= begun_at)
    connection.execute(tombstones.update().where(due).values(purged_at=at))


def parts(values: Iterable[_Value]) -> Iterator[list[Any]]:
    """Yield the values in lists that fit into one query."""
    iterator = iter(values)
    while part := list(islice(iterator, _VALUES_PER_QUERY)):
        yield part


@dataclass(slots=True)
class _Named:
    """Tombstones of one name. records: lookups of removed records with this key. keys: those of an older version."""

    sha256s: set[str]
    records: set[str]
    keys: set[str]


def _by_name(connection: Connection, vault: Vault, names: Collection[str], data_set: str | None) -> dict[str, _Named]:
    by_name = {name: _Named(set(), set(), set()) for name in names}
    if not names:
        return by_name
    query = select(data_sets.c.name)
    in_sets = [data_set] if data_set is not None else list(connection.execute(query).scalars())
    key_of = {_key_lookup(vault, name_of_set, name): name for name_of_set in in_sets for name in names}
    for row in _rows(connection, removed_records, removed_records.c.key_lookup, key_of):
        by_name[key_of[row.key_lookup]].sha256s.add(row.sha256)
        by_name[key_of[row.key_lookup]].records.add(row.lookup)
    for row in _rows(connection, removed_keys, removed_keys.c.lookup, key_of):
        by_name[key_of[row.lookup]].keys.add(row.lookup)
    url_of = {_url_lookup(vault, name): name for name in names}
    for row in _rows(connection, removed_records, removed_records.c.lookup, url_of):
        by_name[url_of[row.lookup]].sha256s.add(row.sha256)
    return by_name


def _rows(connection: Connection, table: Table, column: ColumnElement[Any], values: Iterable[str]) -> Iterator[Any]:
    for part in parts(values):
        yield from connection.execute(select(table).where(column.in_(part)))


def _stored(connection: Connection, column: ColumnElement[str], values: Iterable[str]) -> set[str]:
    stored: set[str] = set()
    for part in parts(values):
        stored.update(connection.execute(select(column).where(column.in_(part))).scalars())
    return stored


def _owned_sha256s(connection: Connection, owner: OwnerId, at: str) -> set[str]:
    of_owner = select(claims.c.training_image_id).where(claims.c.owner_id == owner, claims.c.valid_to > at)
    query = select(works.c.sha256).where(works.c.training_image_id.in_(of_owner))
    return set(connection.execute(query).scalars())


def _named(vault: Vault, work: Removal) -> Iterator[tuple[str, str | None]]:
    """Yield the lookup of each record and URL that the removal named, with the lookup of the record's key."""
    for record in work.named:
        yield _record_lookup(vault, record), _key_lookup(vault, record.data_set, record.key)
    for url in work.urls:
        yield _url_lookup(vault, url), None


def _record_lookups(vault: Vault, record: Record) -> tuple[str, ...]:
    own = _record_lookup(vault, record)
    return (own, _url_lookup(vault, record.url)) if record.url else (own,)


def _key_lookups(vault: Vault, record: Record) -> tuple[str, ...]:
    return (_key_lookup(vault, record.data_set, record.key),)


def _record_lookup(vault: Vault, record: Record) -> str:
    # The length keeps ("a", "bc") and ("ab", "c") apart.
    return vault.lookup(_RECORD + record.data_set, f"{len(record.key)}:{record.key}:{record.uri}")


def _key_lookup(vault: Vault, data_set: str, key: str) -> str:
    return vault.lookup(_KEY + data_set, key)


def _url_lookup(vault: Vault, url: str) -> str:
    return vault.lookup(_URL, url)
