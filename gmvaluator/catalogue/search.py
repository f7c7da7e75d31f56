"""Finding owners and works by what people type.

`rights show`: who claims what of a work, who claimed it before, and who is paid at an instant.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, func, or_, select

from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.schema import claims, former_claims, owners, sources, works
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.schema import utc_text

_AT_ONCE = 5_000
MAX_OWNERS_READ = 100_000
"""Names are encrypted one by one, so a search decrypts them; beyond this many only a UUID finds an owner."""


class OwnersNamed(Protocol):
    """Decrypts names; the catalogue."""

    def display_names(self, owner_ids: Collection[OwnerId]) -> dict[OwnerId, str]: ...


def candidate_owners(connection: Connection, text: str) -> list[OwnerId]:
    """The owner of this UUID, or those whose names are to be looked at: see `owners_by_name`."""
    query = select(owners.c.owner_id).order_by(owners.c.owner_id).limit(MAX_OWNERS_READ)
    wanted = _uuid(text)
    if wanted is not None:
        query = query.where(owners.c.owner_id == wanted)
    return [OwnerId(one) for one in connection.execute(query).scalars()]


def owners_by_name(names: OwnersNamed, ids: Sequence[OwnerId], text: str, limit: int) -> list[tuple[OwnerId, str]]:
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


def has_image(connection: Connection, sha256: str) -> bool:
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


def find_work(catalogue: CatalogueReader, text: str, data_set: str | None = None) -> TrainingImageId:
    """The work of an id, a SHA-256, or a key. Raises NotFound, or InvalidInput if several works have the key."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        query = select(works.c.training_image_id).where(works.c.sha256 == text)
    elif re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        query = select(works.c.training_image_id).where(works.c.training_image_id == uuid.UUID(text))
    else:
        query = select(sources.c.training_image_id).where(sources.c.key == text).distinct()
        if data_set is not None:
            query = query.where(sources.c.data_set == data_set)
    with catalogue.snapshot() as connection:
        found = connection.execute(query.limit(2)).scalars().all()
    if not found:
        raise NotFound(f"there is no work {text[:100]!r}: give its id, SHA-256 or key")
    if len(found) > 1:
        raise InvalidInput(f"several works have the key {text[:100]!r}: say which by --data-set, or give the SHA-256")
    return TrainingImageId(found[0])


def rights_as_dict(catalogue: CatalogueReader, work: TrainingImageId, at: datetime) -> dict[str, Any]:
    """Plain data: claims and former claims with names, and who is paid at `at`."""
    with catalogue.snapshot() as connection:
        valid = connection.execute(select(claims).where(claims.c.training_image_id == work)).all()
        former = connection.execute(select(former_claims).where(former_claims.c.training_image_id == work)).all()
    names = catalogue.display_names(sorted({OwnerId(row.owner_id) for row in (*valid, *former)}))
    (card,) = catalogue.works([work], at).values()
    return {
        "training_image_id": str(work),
        "key": card.key,
        "title": card.title,
        "at": utc_text(at),
        "paid": [
            {"account": one.account, "display_name": one.display_name, "share_ppm": one.share_ppm}
            for one in card.beneficiaries
        ],
        "claims": [_claim(row, names) for row in sorted(valid, key=_order)],
        "former_claims": [
            {**_claim(row, names), "replaced_at": row.replaced_at}
            for row in sorted(former, key=lambda row: (row.replaced_at, row.former_claim_id))
        ],
    }


def _claim(row: Any, names: dict[OwnerId, str]) -> dict[str, Any]:
    return {
        "owner_id": str(row.owner_id),
        "display_name": names[row.owner_id],
        "share_ppm": row.share_ppm,
        "valid_from": row.valid_from,
        "valid_to": row.valid_to,
        "origin": row.origin,
        "recorded_at": row.recorded_at,
    }


def _order(row: Any) -> tuple[str, str, str]:
    return row.origin, row.valid_from, str(row.owner_id)
