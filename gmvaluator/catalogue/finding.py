"""Finding owners and works by what people type."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Protocol

from sqlalchemy import ColumnElement, Connection, func, or_, select

from gmvaluator.catalogue.schema import claims, owners, sources, works
from gmvaluator.ids import OwnerId, TrainingImageId

_AT_ONCE = 5_000
MAX_OWNERS_READ = 100_000
"""Names are encrypted one by one, so a search decrypts them; beyond this many only a UUID finds an owner."""


class OwnersNamed(Protocol):
    """Decrypts names; the catalogue."""

    def display_names(self, owner_ids: Collection[OwnerId]) -> dict[OwnerId, str]: ...


def searched_owners(connection: Connection, text: str) -> list[OwnerId]:
    """The owner of this UUID, or those whose names are to be looked at: see `named_like`."""
    query = select(owners.c.owner_id).order_by(owners.c.owner_id).limit(MAX_OWNERS_READ)
    wanted = _uuid(text)
    if wanted is not None:
        query = query.where(owners.c.owner_id == wanted)
    return [OwnerId(one) for one in connection.execute(query).scalars()]


def named_like(names: OwnersNamed, ids: Sequence[OwnerId], text: str, limit: int) -> list[tuple[OwnerId, str]]:
    """Those of `ids` that have this UUID, or whose name contains `text`, by name; `limit` at most.

    Names are read on a connection of their own: hold no other meanwhile, as all of a pool may be held so.
    """
    known: dict[OwnerId, str] = {}
    for start in range(0, len(ids), _AT_ONCE):
        known |= names.display_names(ids[start : start + _AT_ONCE])
    wanted, part = _uuid(text), text.casefold()
    found = [(one, name) for one, name in known.items() if one == wanted or part in name.casefold()]
    return sorted(found, key=lambda pair: (pair[1].casefold(), str(pair[0])))[:limit]


def find_works(connection: Connection, text: str, limit: int, owner: OwnerId | None = None) -> list[TrainingImageId]:
    """Works of this UUID or SHA-256, or whose key or title contains `text`; only an owner's, if it is given."""
    query = select(sources.c.training_image_id).where(_named(text)).distinct()
    if owner is not None:
        theirs = select(claims.c.training_image_id).where(claims.c.owner_id == owner)
        query = query.where(sources.c.training_image_id.in_(theirs))
    query = query.order_by(sources.c.training_image_id).limit(limit)
    return [TrainingImageId(one) for one in connection.execute(query).scalars()]


def work_by_sha256(connection: Connection, sha256: str) -> bool:
    """Whether the catalogue has an image of these bytes."""
    return connection.execute(select(works.c.sha256).where(works.c.sha256 == sha256)).first() is not None


def _named(text: str) -> ColumnElement[bool]:
    wanted = _uuid(text)
    if wanted is not None:
        return sources.c.training_image_id == wanted
    contains = [
        func.lower(column).contains(text.lower(), autoescape=True) for column in (sources.c.key, sources.c.title)
    ]
    of_hash = select(works.c.training_image_id).where(works.c.sha256 == text.lower())
    return or_(*contains, sources.c.training_image_id.in_(of_hash))


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.removeprefix("owner:"))
    except ValueError:
        return None
