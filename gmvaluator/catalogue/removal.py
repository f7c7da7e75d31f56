"""Selection of works to remove, and of works that are indexed although their owners opted out.

Several records may share a key: records of two downloads that both count from 0, or rows of two files. So a decision
about one record is made by its URI (file, shard and row), its web address or its content. Works and claims stay,
without any text about the image, because postings refer to them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, or_, select

from gmvaluator.catalogue.schema import claims, sources, tombstones, works
from gmvaluator.catalogue.tombstones import Record, Removal, parts, removed_names, tombstoned
from gmvaluator.catalogue.vault import Vault
from gmvaluator.ids import OwnerId, TrainingImageId, training_image_id


@dataclass(frozen=True, slots=True)
class Selection:
    """Criteria of a removal: SHA-256s, keys, owners, and names, each of which is a key, a URI or a URL.

    data_set: where keys are looked up; None for everywhere.
    """

    sha256s: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    owners: frozenset[OwnerId] = frozenset()
    data_set: str | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """The works that a selection matches.

    removed_before: number of `works` that have a tombstone already. shared: number of works selected by owner that
    other owners claim too. unmatched: keys and names of no work, present or removed. unknown: SHA-256s of no work.
    without_works: owners who claim none. ambiguous: for each key that records of several works share, the SHA-256s of
    these works.
    """

    works: tuple[Removal, ...]
    removed_before: int
    shared: int
    unmatched: tuple[str, ...]
    unknown: tuple[str, ...]
    without_works: tuple[OwnerId, ...]
    ambiguous: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class OptedOut:
    """Owners' opt-outs as far as a run has read them.

    sha256s: images that a list names. names: keys, URIs and URLs of a list. shared_keys: those of `names` that several
    records share as far as the run has seen. records: records that were left out, each with the SHA-256 of the image
    that it holds, or "".
    """

    sha256s: Collection[str] = ()
    names: Collection[str] = ()
    shared_keys: Collection[str] = ()
    records: Collection[tuple[Record, str]] = ()


@dataclass(frozen=True, slots=True)
class OptedOutWorks:
    """Works without a tombstone whose owners opted out, by SHA-256.

    exact: works every record of which is opted out. shared: works that other records hold too, which did not opt out.
    ambiguous: listed keys that indexed records of several works share, so that they decide about none of them.
    """

    exact: tuple[str, ...]
    shared: tuple[str, ...]
    ambiguous: tuple[str, ...] = ()


def select_removals(connection: Connection, vault: Vault, selection: Selection, at: str) -> Selected:
    """Return the works that a selection matches. at: now, UTC text; claims that have ended count for no owner.

    A SHA-256 always matches a work: one that is not indexed yet is kept out in advance.
    """
    matches = _matches(connection, selection)
    owned_by = _owned(connection, selection.owners, at)
    owned = {work for ids in owned_by.values() for work in ids}
    shared = _shared(connection, owned, selection.owners, at)
    hashes = dict(_hashes(connection, {match.work for match in matches} | owned))
    hashes.update({training_image_id(sha256): sha256 for sha256 in selection.sha256s})
    before = tombstoned(connection, hashes.values())
    records = _records(connection, hashes)
    named: dict[TrainingImageId, set[Record]] = {work: records.get(work, set()) for work in owned - shared}
    urls: dict[TrainingImageId, set[str]] = {}
    for match in matches:
        if match.by_key or match.by_uri:
            named.setdefault(match.work, set()).add(match.record)
        if match.by_url:
            urls.setdefault(match.work, set()).add(match.record.url)
    removals = tuple(
        Removal(
            work,
            hashes[work],
            tuple(sorted(records.get(work, ()), key=_order)),
            tuple(sorted(named.get(work, ()), key=_order)),
            tuple(sorted(urls.get(work, ()))),
        )
        for work in sorted(hashes)
    )
    unmatched = (selection.keys | selection.names) - {name for match in matches for name in match.names}
    return Selected(
        removals,
        len(before),
        len(shared),
        tuple(sorted(unmatched - removed_names(connection, vault, unmatched, selection.data_set))),
        tuple(sorted(selection.sha256s - before - active_works(connection, selection.sha256s))),
        tuple(sorted(selection.owners - owned_by.keys())),
        {key: tuple(sorted(hashes[work] for work in ids)) for key, ids in _ambiguous(matches).items()},
    )


def erase_sources(connection: Connection, ids: Collection[TrainingImageId]) -> int:
    """Delete the sources of works (key, URI, URL, title, licence and labels); return the number of rows."""
    return sum(
        connection.execute(delete(sources).where(sources.c.training_image_id.in_(part))).rowcount for part in parts(ids)
    )


def opted_out_works(connection: Connection, data_set: str | None, opted_out: OptedOut) -> OptedOutWorks:
    """Return indexed works whose owners opted out. data_set: of the run, where keys are looked up; None for everywhere.

    A key that several records share decides about none of them.
    """
    listed = active_works(connection, opted_out.sha256s)
    matches = _matches(connection, Selection(names=frozenset(opted_out.names), data_set=data_set))
    ambiguous = _ambiguous(matches).keys()
    shared_keys = ambiguous | set(opted_out.shared_keys)
    refused: dict[TrainingImageId, set[Record]] = {}
    for match in matches:
        if match.by_uri or match.by_url or match.record.key not in shared_keys:
            refused.setdefault(match.work, set()).add(match.record)
    for work, record in _left_out(connection, opted_out.records):
        refused.setdefault(work, set()).add(record)
    records = _records(connection, refused)
    hashes = dict(_hashes(connection, refused))
    active = active_works(connection, hashes.values())
    exact = {sha256 for work, sha256 in hashes.items() if records.get(work, set()) <= refused[work]} & active
    return OptedOutWorks(
        tuple(sorted(listed | exact)), tuple(sorted(active - exact - listed)), tuple(sorted(ambiguous))
    )


def active_works(connection: Connection, sha256s: Collection[str]) -> set[str]:
    """Return those of `sha256s` whose works are in the catalogue and were not removed."""
    query = select(works.c.sha256).where(works.c.sha256.not_in(select(tombstones.c.sha256)))
    active: set[str] = set()
    for part in parts(sha256s):
        active.update(connection.execute(query.where(works.c.sha256.in_(part))).scalars())
    return active


def known_names(connection: Connection, vault: Vault, data_set: str | None, names: Collection[str]) -> set[str]:
    """Return those of `names` that are a key (in this data set), URI or URL of a work, indexed or removed."""
    matches = _matches(connection, Selection(names=frozenset(names), data_set=data_set))
    known = {name for match in matches for name in match.names}
    return known | removed_names(connection, vault, set(names) - known, data_set)


@dataclass(frozen=True, slots=True)
class _Match:
    """A record of a work, and what of it a selection names."""

    work: TrainingImageId
    record: Record
    by_key: bool
    by_uri: bool
    by_url: bool

    @property
    def names(self) -> Iterator[str]:
        """The names in the selection that the record matches."""
        record = self.record
        named = ((record.key, self.by_key), (record.uri, self.by_uri), (record.url, self.by_url))
        return (name for name, is_named in named if is_named)


_NAMING = (sources.c.key, sources.c.uri, sources.c.url)


def _matches(connection: Connection, selection: Selection) -> list[_Match]:
    matches: dict[int, _Match] = {}
    names = selection.names - {""}
    keys = (selection.keys | names) - {""}
    for part in parts(keys):
        for row in connection.execute(select(sources).where(or_(*(column.in_(part) for column in _NAMING)))):
            record = _record(row)
            by_key = record.key in keys and selection.data_set in (None, record.data_set)
            by_uri, by_url = record.uri in names, record.url in names
            if by_key or by_uri or by_url:
                work = TrainingImageId(row.training_image_id)
                matches[row.source_id] = _Match(work, record, by_key, by_uri, by_url)
    return list(matches.values())


def _ambiguous(matches: Iterable[_Match]) -> dict[str, set[TrainingImageId]]:
    """Return the works of each key that records of several works share, other than versions of one file and row."""
    with_key: dict[str, list[_Match]] = {}
    for match in matches:
        if match.by_key:
            with_key.setdefault(match.record.key, []).append(match)
    ambiguous: dict[str, set[TrainingImageId]] = {}
    for key, same in with_key.items():
        ids = {match.work for match in same}
        places = {(match.record.data_set, match.record.uri) for match in same}
        if len(ids) > 1 and (len(places) > 1 or any(not uri for _, uri in places)):
            ambiguous[key] = ids
    return ambiguous


def _left_out(
    connection: Connection, left_out: Collection[tuple[Record, str]]
) -> Iterator[tuple[TrainingImageId, Record]]:
    """Yield indexed works with those of their records that a run left out.

    A record is the same if its URI or its URL is, or, once its folder has moved, if key and content are and no URLs
    tell them apart.
    """
    by_uri = {(record.data_set, record.key, record.uri) for record, _ in left_out}
    by_url = {record.url for record, _ in left_out if record.url}
    by_content = {(record.data_set, record.key, sha256): record.url for record, sha256 in left_out if sha256}
    for column, values in ((sources.c.key, {record.key for record, _ in left_out}), (sources.c.url, by_url)):
        for part in parts(values):
            query = select(sources, works.c.sha256).where(works.c.training_image_id == sources.c.training_image_id)
            for row in connection.execute(query.where(column.in_(part))):
                record = _record(row)
                url = by_content.get((record.data_set, record.key, row.sha256))
                moved = url is not None and (not url or not record.url or url == record.url)
                if moved or (record.data_set, record.key, record.uri) in by_uri or record.url in by_url:
                    yield TrainingImageId(row.training_image_id), record


def _order(record: Record) -> tuple[str, str, str]:
    return record.data_set, record.key, record.uri


def _record(row: Any) -> Record:
    return Record(row.data_set, row.key, row.uri, row.url)


def _owned(connection: Connection, owners: Collection[OwnerId], at: str) -> dict[OwnerId, set[TrainingImageId]]:
    """Return the works that each of `owners` claims; an owner without works is absent."""
    owned: dict[OwnerId, set[TrainingImageId]] = {}
    for part in parts(owners):
        query = select(claims.c.owner_id, claims.c.training_image_id).where(claims.c.owner_id.in_(part)).distinct()
        for row in connection.execute(query.where(claims.c.valid_to > at)):
            owned.setdefault(OwnerId(row.owner_id), set()).add(TrainingImageId(row.training_image_id))
    return owned


def _shared(
    connection: Connection, ids: Collection[TrainingImageId], owners: Collection[OwnerId], at: str
) -> set[UUID]:
    shared: set[UUID] = set()
    for part in parts(ids):
        query = select(claims.c.training_image_id).where(claims.c.training_image_id.in_(part), claims.c.valid_to > at)
        shared.update(connection.execute(query.where(claims.c.owner_id.not_in(owners))).scalars())
    return shared


def _hashes(connection: Connection, ids: Iterable[TrainingImageId]) -> Iterator[tuple[TrainingImageId, str]]:
    for part in parts(ids):
        query = select(works.c.training_image_id, works.c.sha256).where(works.c.training_image_id.in_(part))
        yield from ((TrainingImageId(row[0]), row[1]) for row in connection.execute(query))


def _records(connection: Connection, ids: Iterable[TrainingImageId]) -> dict[TrainingImageId, set[Record]]:
    records: dict[TrainingImageId, set[Record]] = {}
    for part in parts(ids):
        for row in connection.execute(select(sources).where(sources.c.training_image_id.in_(part))):
            records.setdefault(TrainingImageId(row.training_image_id), set()).add(_record(row))
    return records
