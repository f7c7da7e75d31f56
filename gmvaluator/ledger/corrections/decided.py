"""What was decided about a posting, and another valuation must not undo: awards, and rights found by a release."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import Connection, select

from gmvaluator.errors import PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.decisions import RELEASE, SETTLEMENT, Decision
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import decisions, postings


def require_no_award(connection: Connection, sequence: int, generation_id: str) -> None:
    """Raise PreconditionFailed if a dispute about this posting ended with an award."""
    for decision in _about(connection, sequence, SETTLEMENT):
        if decision.facts["award"] is not None:
            raise PreconditionFailed(
                f"dispute {decision.links.dispute_id} awarded credits of generation {generation_id}, which another "
                "valuation would take back: `gmvaluator ledger reverse` takes all of them back, awarded ones too"
            )


def released_rights(connection: Connection, sequence: int) -> dict[TrainingImageId, tuple[tuple[str, int], ...]]:
    """By work, (account, ppm) of those who had the rights, as was known when it was last released."""
    return {
        TrainingImageId(UUID(work["training_image_id"])): tuple((account, share) for account, share in work["rights"])
        for decision in _about(connection, sequence, RELEASE)
        for work in decision.facts["works"]
    }


def _about(connection: Connection, sequence: int, kind: str) -> Iterator[Decision]:
    """Decisions of a kind about a posting, earliest first."""
    of_this = (decisions.c.about_sequence == sequence) & (decisions.c.kind == kind)
    wanted = postings_where(postings.c.sequence.in_(select(decisions.c.sequence).where(of_this)))
    for posting in load(connection, wanted.order_by(postings.c.sequence)):
        yield Decision.from_json(posting.evidence_json)
