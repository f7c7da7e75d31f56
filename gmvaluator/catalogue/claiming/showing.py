"""`rights show`: who claims what of a work, who claimed it before, and who is paid at an instant."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import select

from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.schema import claims, former_claims, sources, works
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.schema import utc_text


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


def shown_rights(catalogue: CatalogueReader, work: TrainingImageId, at: datetime) -> dict[str, Any]:
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
