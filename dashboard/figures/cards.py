"""Cards of generated images: each with the works that it resembles most, their credits and distances."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import amount_text, millionths, moment_text, share_text
from gmvaluator.accounts import owner_of
from gmvaluator.errors import NotFound
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.records import Contribution, Evidence, StoredPosting
from gmvaluator.ports import WorkCard
from gmvaluator.valuation.weights import MILLION

SHOWN_CONTRIBUTORS = 3
"""Contributors on one card."""


def feed(data: DataAccess, postings: Sequence[StoredPosting], shown: int = SHOWN_CONTRIBUTORS) -> list[dict[str, Any]]:
    """Return a card for each posting, in their order, with its `shown` nearest contributors."""
    evidence = {posting.sequence: posting.evidence for posting in postings}
    contributions = [row for parsed in evidence.values() for row in parsed.contributions[:shown]]
    cards = data.cards({row.training_image_id for row in contributions})
    names = data.names({payment.account for row in contributions for payment in row.payments})
    return [_card(data, posting, evidence[posting.sequence], cards, names, shown) for posting in postings]


def contributor(
    data: DataAccess, row: Contribution, cards: Mapping[TrainingImageId, WorkCard], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return one contributor as the pages show it. names: of the accounts that it pays."""
    work = row.training_image_id
    return {
        "rank": row.rank,
        "work_id": str(work),
        "title": work_title(cards.get(work), work),
        "picture": picture(data, work),
        "artist": ", ".join(names[payment.account] for payment in row.payments),
        "owners": [str(owner) for payment in row.payments if (owner := owner_of(payment.account)) is not None],
        "distance": millionths(row.distance_millionths),
        "similarity": millionths(row.clip_similarity_millionths),
        "share": share_text(row.share),
        "share_percent": round(100 * row.share, 4),
        "credits": amount_text(row.credit_micros),
    }


def work_title(card: WorkCard | None, work: uuid.UUID) -> str:
    """Return a work's title, or else its key, or else a part of its id."""
    return (card.title or card.key if card else "") or f"Work {str(work)[:8]}"


def picture(data: DataAccess, work: uuid.UUID) -> str | None:
    """Return the URL of a work's thumbnail; None if none is stored."""
    return f"/pictures/works/{work}" if data.thumbnail(work).is_file() else None


def picture_file(path: Path, max_age_s: int) -> Response:
    """Return a thumbnail, which the browser may cache for `max_age_s` seconds. Raises NotFound."""
    if not path.is_file():
        raise NotFound("no such picture is kept")
    return FileResponse(path, media_type="image/webp", headers={"cache-control": f"private, max-age={max_age_s}"})


def generated_picture(data: DataAccess, posting: StoredPosting) -> str | None:
    """Return the URL of a generated image's thumbnail; None if none is stored.

    The URL names the posting, so that access to the picture is decided by access to the posting.
    """
    sha256 = posting.header.image_sha256
    stored = sha256 is not None and data.generated_thumbnail(sha256).is_file()
    return f"/pictures/generations/{posting.sequence}" if stored else None


def _card(
    data: DataAccess,
    posting: StoredPosting,
    evidence: Evidence,
    cards: Mapping[TrainingImageId, WorkCard],
    names: Mapping[str, str],
    shown: int,
) -> dict[str, Any]:
    contributions = evidence.contributions
    return {
        "sequence": posting.sequence,
        "generation_id": posting.header.generation_id,
        "model_version": evidence.model_version,
        "posted_at": moment_text(posting.header.posted_at),
        "picture": generated_picture(data, posting),
        "quality": f"{evidence.quality_millionths / MILLION:.3f}",
        "issued": amount_text(evidence.issued_micros),
        "unattributed_percent": round(100 * evidence.unattributed_share, 4),
        "unattributed_share": share_text(evidence.unattributed_share),
        "contributors": [contributor(data, row, cards, names) for row in contributions[:shown]],
        "more": max(0, len(contributions) - shown),
    }
