"""Sources as rows: which records of a batch are known, at a new place or with a new URL, and which are to be added.

A record is known by its work, data set, key and URL. One without a URL is the record with that key, whatever the URL:
an older version stored none, and a manifest may leave it out. What tells records of one key and content apart is
stored as a number, because no database indexes a text as long as a URL may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select, update

from gmvaluator.catalogue.records import NewWork
from gmvaluator.catalogue.schema import sources
from gmvaluator.ids import OwnerId

_Name = tuple[UUID, str, str]
"""A work, data set and key."""


@dataclass(slots=True)
class _Stored:
    """The stored fields of a source that may change. number: its place among the sources of its name."""

    number: int
    uri: str
    url: str


def refresh_sources(
    connection: Connection, batch: Sequence[NewWork], owner_ids: Mapping[tuple[str, str], OwnerId], at: str
) -> tuple[list[int], list[dict[str, Any]]]:
    """Store the newest URI and URL of known sources.

    A folder may have moved, and a record may have had no URL before. owner_ids: by namespace and manifest id. at: UTC
    text. Returns the number of each record's source, and the rows of the sources that are new.
    """
    stored = _stored(connection, batch)
    numbers: list[int] = []
    added: dict[tuple[_Name, int], dict[str, Any]] = {}
    for work in batch:
        name = work.training_image_id, work.data_set, work.key
        known = stored.setdefault(name, [])
        source = _same(known, work)
        if source is None:
            source = _Stored(len(known), work.uri, work.url)
            known.append(source)
            added[name, source.number] = _row(work, source.number, owner_ids, at)
        numbers.append(source.number)
        newest = work.uri, work.url or source.url
        if newest == (source.uri, source.url):
            continue
        source.uri, source.url = newest
        places = {"uri": source.uri, "url": source.url}
        if (name, source.number) in added:
            added[name, source.number].update(places)
        else:
            connection.execute(update(sources).where(source_is(*name, source.number)).values(places))
    return numbers, list(added.values())


def source_is(work: UUID, data_set: str, key: str, number: int) -> ColumnElement[bool]:
    """Return the condition that selects one source."""
    of_place = (sources.c.training_image_id == work) & (sources.c.data_set == data_set)
    return of_place & (sources.c.key == key) & (sources.c.number == number)


def _stored(connection: Connection, batch: Sequence[NewWork]) -> dict[_Name, list[_Stored]]:
    columns = sources.c.training_image_id, sources.c.data_set, sources.c.key, sources.c.number
    query = select(*columns, sources.c.uri, sources.c.url).order_by(sources.c.number)
    stored: dict[_Name, list[_Stored]] = {}
    ids = {work.training_image_id for work in batch}
    for row in connection.execute(query.where(sources.c.training_image_id.in_(ids))):
        stored.setdefault((row[0], row[1], row[2]), []).append(_Stored(row.number, row.uri, row.url))
    return stored


def _same(known: Sequence[_Stored], work: NewWork) -> _Stored | None:
    """Return the source that a record is, or None if it is new."""
    same_url = [source for source in known if source.url == work.url]
    if same_url or not work.url:
        return next(iter([*same_url, *(source for source in known if source.uri == work.uri), *known]), None)
    return next((source for source in known if not source.url), None)


def _row(work: NewWork, number: int, owner_ids: Mapping[tuple[str, str], OwnerId], at: str) -> dict[str, Any]:
    owner = work.owner
    return {
        "training_image_id": work.training_image_id,
        "data_set": work.data_set,
        "key": work.key,
        "number": number,
        "uri": work.uri,
        "url": work.url,
        "title": work.title,
        "license": work.license,
        "labels": list(work.labels),
        "owner_id": None if owner is None else owner_ids[owner.namespace, owner.manifest_id],
        "added_at": at,
    }
