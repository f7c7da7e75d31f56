"""Lists of owners, works and data sets as plain data, and owners found by what people call them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, distinct, func, select

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.rights import MAX_IDS
from gmvaluator.catalogue.schema import claims, data_sets, generators, owners, sources, tombstones, works
from gmvaluator.catalogue.search import candidate_owners
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.schema import utc_text

SHOWN = 10
"""Maximum number of owners that a message about an ambiguous name lists."""

_SHORT_ID = re.compile(r"[0-9a-f]{6,8}(-[0-9a-f-]{0,27})?")


def find_owner(catalogue: CatalogueReader, text: str) -> OwnerId:
    """Return the owner of a UUID or its beginning, an account, a manifest's owner_id, or a name.

    Raises NotFound, InvalidInput, listing their UUIDs, if several owners have the name, or PreconditionFailed if the
    owner with this manifest id was erased.
    """
    plain = text.removeprefix(OWNER_PREFIX)
    try:
        return OwnerId(uuid.UUID(plain))
    except ValueError:
        pass
    try:
        return catalogue.owner_of_manifest_id(plain)
    except (NotFound, InvalidInput):
        named = _named(catalogue, plain)
    if len(named) == 1:
        return named[0][0]
    if not named:
        raise NotFound(f"no owner is {text[:100]!r}: `gmvaluator owners list` shows names and UUIDs")
    listed = ", ".join(f"{name} {owner}" for owner, name in named[:SHOWN])
    raise InvalidInput(f"{len(named):,} owners are {text[:100]!r}: {listed}; give the UUID")


def _named(catalogue: CatalogueReader, text: str) -> list[tuple[OwnerId, str]]:
    """Return the owners with exactly this name, whatever its case, or with a UUID that begins so."""
    with catalogue.snapshot() as connection:
        ids = candidate_owners(connection, "")
    names = _names(catalogue, ids)
    exact = [(owner, name) for owner, name in names.items() if name == text]
    alike = [(owner, name) for owner, name in names.items() if name.casefold() == text.casefold()]
    short = [pair for pair in names.items() if str(pair[0]).startswith(text)] if _SHORT_ID.fullmatch(text) else []
    return exact or alike or short


def _names(catalogue: CatalogueReader, ids: Sequence[OwnerId]) -> dict[OwnerId, str]:
    names: dict[OwnerId, str] = {}
    for start in range(0, len(ids), MAX_IDS):
        names |= catalogue.display_names(ids[start : start + MAX_IDS])
    return names


def list_owners(catalogue: CatalogueReader, limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` owners, by name, with the number of works that they claim."""
    with catalogue.snapshot() as connection:
        ids = candidate_owners(connection, "")
        claimed = _works_claimed(connection)
    rows = [
        {"owner_id": str(owner), "display_name": name, "works": claimed.get(owner, 0)}
        for owner, name in _names(catalogue, ids).items()
    ]
    return sorted(rows, key=lambda row: (str(row["display_name"]).casefold(), str(row["owner_id"])))[:limit]


def _works_claimed(connection: Connection) -> dict[uuid.UUID, int]:
    query = select(claims.c.owner_id, func.count(distinct(claims.c.training_image_id))).where(_has_not_ended())
    return {row[0]: row[1] for row in connection.execute(query.group_by(claims.c.owner_id))}


def _has_not_ended() -> ColumnElement[bool]:
    """Return the condition that a claim is valid, or will be."""
    return claims.c.valid_to > utc_text(datetime.now(UTC))


def owner_summary(catalogue: CatalogueReader, owner: OwnerId) -> dict[str, Any]:
    """Return an owner's name, when it was recorded and erased, and how many works it claims. Raises NotFound."""
    with catalogue.snapshot() as connection:
        row = connection.execute(select(owners).where(owners.c.owner_id == owner)).one_or_none()
        claimed = connection.execute(
            select(func.count(distinct(claims.c.training_image_id))).where(claims.c.owner_id == owner, _has_not_ended())
        ).scalar_one()
    if row is None:
        raise NotFound(f"no owner {owner} is recorded: `gmvaluator owners list` shows names and UUIDs")
    return {
        "owner_id": str(owner),
        "display_name": catalogue.display_names([owner])[owner],
        "recorded_at": row.recorded_at,
        "forgotten_at": row.forgotten_at,
        "works": claimed,
    }


def list_works(
    catalogue: CatalogueReader, data_set: str | None, owner: OwnerId | None, limit: int
) -> list[dict[str, Any]]:
    """Return at most `limit` works, in the order of recording: of a data set, of an owner, or all; removed ones too."""
    query = select(sources.c.training_image_id, func.min(sources.c.source_id)).group_by(sources.c.training_image_id)
    if data_set is not None:
        query = query.where(sources.c.data_set == data_set)
    if owner is not None:
        owned = select(claims.c.training_image_id).where(claims.c.owner_id == owner, _has_not_ended())
        query = query.where(sources.c.training_image_id.in_(owned))
    query = query.order_by(func.min(sources.c.source_id)).limit(limit)
    with catalogue.snapshot() as connection:
        ids = [TrainingImageId(row[0]) for row in connection.execute(query)]
    return describe_works(catalogue, ids)


def describe_works(catalogue: CatalogueReader, ids: Sequence[TrainingImageId]) -> list[dict[str, Any]]:
    """Return works with their hash, size, places and owners, in the order of `ids`."""
    described: dict[TrainingImageId, dict[str, Any]] = {}
    for start in range(0, len(ids), MAX_IDS):
        described |= _described(catalogue, ids[start : start + MAX_IDS])
    return [described[work] for work in ids]


def _described(catalogue: CatalogueReader, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, dict[str, Any]]:
    rows: dict[TrainingImageId, dict[str, Any]] = {}
    removed = select(tombstones.c.sha256)
    with catalogue.snapshot() as connection:
        query = select(works, works.c.sha256.in_(removed).label("removed")).where(works.c.training_image_id.in_(ids))
        for row in connection.execute(query):
            rows[row.training_image_id] = {
                "training_image_id": str(row.training_image_id),
                "sha256": row.sha256,
                "width": row.width,
                "height": row.height,
                "added_at": row.added_at,
                "removed": bool(row.removed),
                "sources": [],
                "owners": [],
            }
        of_these = sources.c.training_image_id.in_(ids)
        for source in connection.execute(select(sources).where(of_these).order_by(sources.c.source_id)):
            place = {name: getattr(source, name) for name in ("data_set", "key", "uri", "url", "title", "license")}
            rows[source.training_image_id]["sources"].append(place)
        pairs = select(claims.c.training_image_id, claims.c.owner_id)
        pairs = pairs.where(claims.c.training_image_id.in_(ids), _has_not_ended())
        claimed = connection.execute(pairs.distinct()).all()
    names = _names(catalogue, sorted({OwnerId(row.owner_id) for row in claimed}))
    for row in sorted(claimed, key=lambda row: str(row.owner_id)):
        owner = {"owner_id": str(row.owner_id), "display_name": names[OwnerId(row.owner_id)]}
        rows[row.training_image_id]["owners"].append(owner)
    return rows


def list_data_sets(catalogue: CatalogueReader) -> list[dict[str, Any]]:
    """Return all data sets, by name, with their works and the generators that were trained on them."""
    with catalogue.snapshot() as connection:
        added = connection.execute(select(data_sets).order_by(data_sets.c.name)).all()
        counted = select(sources.c.data_set, func.count(distinct(sources.c.training_image_id)))
        counts = {row[0]: row[1] for row in connection.execute(counted.group_by(sources.c.data_set))}
        trained = connection.execute(select(generators.c.model_version, generators.c.data_sets)).all()
    return [
        {
            "name": row.name,
            "added_at": row.added_at,
            "works": counts.get(row.name, 0),
            "generators": sorted(generator.model_version for generator in trained if row.name in generator.data_sets),
        }
        for row in added
    ]
