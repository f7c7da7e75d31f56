"""Generated images as cards: each beside the works it resembles most, with credits and distances."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from dashboard.figures.data import Sources
from dashboard.figures.formatting import amount_text, millionths, moment_text, share_text
from gmvaluator.accounts import owner_of
from gmvaluator.errors import NotFound
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.records import Contribution, Evidence, StoredPosting
from gmvaluator.ports import WorkCard
from gmvaluator.valuation.weights import MILLION

SHOWN_CONTRIBUTORS = 3


def feed(sources: Sources, postings: Sequence[StoredPosting], shown: int = SHOWN_CONTRIBUTORS) -> list[dict[str, Any]]:
    """A card for each posting, in their order, with its `shown` nearest contributors."""
    evidence = {posting.sequence: posting.evidence for posting in postings}
    some = [one for found in evidence.values() for one in found.contributions[:shown]]
    cards = sources.cards({one.training_image_id for one in some})
    names = sources.names({payment.account for one in some for payment in one.payments})
    return [_card(sources, posting, evidence[posting.sequence], cards, names, shown) for posting in postings]


def contributor(
    sources: Sources, one: Contribution, cards: Mapping[TrainingImageId, WorkCard], names: Mapping[str, str]
) -> dict[str, Any]:
    """One contributor as a page shows it."""
    card = cards.get(one.training_image_id)
    return {
        "rank": one.rank,
        "work_id": str(one.training_image_id),
        "title": work_title(card, one.training_image_id),
        "picture": picture(sources, one.training_image_id),
        "artist": ", ".join(names[payment.account] for payment in one.payments),
        "owners": [str(owner) for payment in one.payments if (owner := owner_of(payment.account)) is not None],
        "distance": millionths(one.distance_millionths),
        "similarity": millionths(one.clip_similarity_millionths),
        "share": share_text(one.share),
        "share_percent": round(100 * one.share, 4),
        "credits": amount_text(one.credit_micros),
    }


def work_title(card: WorkCard | None, work: uuid.UUID) -> str:
    """The best name there is of a work."""
    return (card.title or card.key if card else "") or f"Work {str(work)[:8]}"


def picture(sources: Sources, work: uuid.UUID) -> str | None:
    """Address of a work's thumbnail; None if none is kept."""
    return f"/pictures/works/{work}" if sources.thumbnail(work).is_file() else None


def picture_file(path: Path, max_age_s: int) -> Response:
    """A thumbnail's file, which the browser may keep for a while. Raises NotFound."""
    if not path.is_file():
        raise NotFound("no such picture is kept")
    return FileResponse(path, media_type="image/webp", headers={"cache-control": f"private, max-age={max_age_s}"})


def generated_picture(sources: Sources, posting: StoredPosting) -> str | None:
    """Address of a generated image's thumbnail, by its posting, so that who may see the one sees the other.

    None if none is kept.
    """
    sha256 = posting.header.image_sha256
    kept = sha256 is not None and sources.generated_thumbnail(sha256).is_file()
    return f"/pictures/generations/{posting.sequence}" if kept else None


def _card(
    sources: Sources,
    posting: StoredPosting,
    evidence: Evidence,
    cards: Mapping[TrainingImageId, WorkCard],
    names: Mapping[str, str],
    shown: int,
) -> dict[str, Any]:
    found = evidence.contributions
    return {
        "sequence": posting.sequence,
        "generation_id": posting.header.generation_id,
        "model_version": evidence.model_version,
        "posted_at": moment_text(posting.header.posted_at),
        "picture": generated_picture(sources, posting),
        "quality": f"{evidence.quality_millionths / MILLION:.3f}",
        "issued": amount_text(evidence.issued_micros),
        "unattributed_percent": round(100 * evidence.unattributed_share, 4),
        "unattributed_share": share_text(evidence.unattributed_share),
        "contributors": [contributor(sources, one, cards, names) for one in found[:shown]],
        "more": max(0, len(found) - shown),
    }
