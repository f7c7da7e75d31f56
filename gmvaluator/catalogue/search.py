"""Search for owners and works by text, and the rights to a work as plain data."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.schema import claims, former_claims, owners, sources, works
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.schema import utc_text
from gmvaluator.text import unicode_forms

_NAMES_PER_QUERY = 5_000

MAX_LISTED = 10
"""Maximum number of works that a message about an ambiguous name lists."""

MIN_PREFIX = 6
"""Fewest characters of a shortened id or SHA-256."""

MAX_OWNERS_READ = 100_000
"""Limit of owners whose names a search decrypts; in a larger catalogue some owners are found by UUID only."""


def candidate_owners(connection: Connection, text: str) -> list[OwnerId]:
    """Return the owner with this UUID, or all owners whose names may match; see `owners_by_name`."""
    query = select(owners.c.owner_id).order_by(owners.c.owner_id).limit(MAX_OWNERS_READ)
    owner_id = _uuid(text)
    if owner_id is not None:
        query = query.where(owners.c.owner_id == owner_id)
    return [OwnerId(row) for row in connection.execute(query).scalars()]


def owners_by_name(
    catalogue: CatalogueReader, ids: Sequence[OwnerId], text: str, limit: int
) -> list[tuple[OwnerId, str]]:
    """Return at most `limit` of `ids` with this UUID or with `text` in the name, ordered by name.

    The names are read on a connection of their own. Do not hold another one meanwhile: concurrent searches could then
    hold every connection of the pool and wait for each other.
    """
    names: dict[OwnerId, str] = {}
    for start in range(0, len(ids), _NAMES_PER_QUERY):
        names |= catalogue.display_names(ids[start : start + _NAMES_PER_QUERY])
    exact, part = _uuid(text), text.casefold()
    matches = [(owner, name) for owner, name in names.items() if owner == exact or part in name.casefold()]
    return sorted(matches, key=lambda pair: (pair[1].casefold(), str(pair[0])))[:limit]


def find_works(connection: Connection, text: str, limit: int, owner: OwnerId | None = None) -> list[TrainingImageId]:
    """Return at most `limit` works with this UUID or SHA-256, or with `text` in a key or title.

    owner: return works of this owner only.
    """
    query = select(sources.c.training_image_id).where(_matches(text)).distinct()
    if owner is not None:
        owned = select(claims.c.training_image_id).where(claims.c.owner_id == owner)
        query = query.where(sources.c.training_image_id.in_(owned))
    query = query.order_by(sources.c.training_image_id).limit(limit)
    return [TrainingImageId(row) for row in connection.execute(query).scalars()]


def has_image(connection: Connection, sha256: str) -> bool:
    """Return True if the catalogue has an image with this SHA-256."""
    return connection.execute(select(works.c.sha256).where(works.c.sha256 == sha256)).first() is not None


def _matches(text: str) -> ColumnElement[bool]:
    work = _uuid(text)
    if work is not None:
        return sources.c.training_image_id == work
    # autoescape: % and _ in the text are not wildcards.
    contains = [
        func.lower(column).contains(form.lower(), autoescape=True)
        for column in (sources.c.key, sources.c.title)
        for form in unicode_forms(text)
    ]
    with_hash = select(works.c.training_image_id).where(works.c.sha256 == text.lower())
    return or_(*contains, sources.c.training_image_id.in_(with_hash))


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.removeprefix(OWNER_PREFIX))
    except ValueError:
        return None


def find_work(catalogue: CatalogueReader, text: str, data_set: str | None = None) -> TrainingImageId:
    """Return the work with this id, SHA-256 or key, or with an id or SHA-256 that begins so.

    data_set: where the key is looked up; None for everywhere. Raises NotFound, or InvalidInput, listing their ids, for
    several works.
    """
    with catalogue.snapshot() as connection:
        for query in _work_queries(text, data_set):
            matches = connection.execute(query.distinct().limit(MAX_LISTED + 1)).scalars().all()
            if len(matches) == 1:
                return TrainingImageId(matches[0])
            if matches:
                listed = ", ".join(map(str, matches[:MAX_LISTED]))
                raise InvalidInput(f"several works are {text[:100]!r}: give --data-set or one of these ids: {listed}")
    raise NotFound(f"there is no work {text[:100]!r}: give its id, SHA-256 or key; `gmvaluator works list` shows them")


def _work_queries(text: str, data_set: str | None) -> Iterator[Select[Any]]:
    """Yield queries for the works that `text` may name, the surest first."""
    plain = text.lower()
    if re.fullmatch(r"[0-9a-f]{64}", plain):
        yield select(works.c.training_image_id).where(works.c.sha256 == plain)
    work = _uuid(plain)
    if work is not None:
        yield select(works.c.training_image_id).where(works.c.training_image_id == work)
    for keys in ((text,), unicode_forms(text)):
        with_key = select(sources.c.training_image_id).where(sources.c.key.in_(keys))
        yield with_key if data_set is None else with_key.where(sources.c.data_set == data_set)
    if re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX}}}[0-9a-f-]{{,30}}", plain):
        low, high = (uuid.UUID(plain.replace("-", "").ljust(32, digit)[:32]) for digit in "0f")
        yield select(works.c.training_image_id).where(works.c.training_image_id.between(low, high))
    if re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},63}}", plain):
        yield select(works.c.training_image_id).where(works.c.sha256.startswith(plain))


def rights_as_dict(catalogue: CatalogueReader, work: TrainingImageId, at: datetime) -> dict[str, Any]:
    """Return claims, former claims and the beneficiaries at `at`, with names, as plain data."""
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
            {"account": payee.account, "display_name": payee.display_name, "share_ppm": payee.share_ppm}
            for payee in card.beneficiaries
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
