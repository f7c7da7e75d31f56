"""Works whose credit a policy held back as too unsure, by posting: as the newest evidence about each says."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.canonical import canonical_json
from gmvaluator.ledger.decisions import REATTRIBUTION, Decision
from gmvaluator.ledger.records import ATTRIBUTION, Evidence
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import decisions, postings


def held_back(connection: Connection, sequences: Sequence[int]) -> dict[int, frozenset[TrainingImageId]]:
    """Works held back of each of `sequences`; a posting that was valued again goes by its newest evidence."""
    found: dict[int, frozenset[TrainingImageId]] = {}
    for posting in load(connection, postings_where(postings.c.sequence.in_(sequences))):
        if posting.header.kind == ATTRIBUTION:
            found[posting.sequence] = _works(posting.evidence)
    again = select(decisions.c.sequence).where(
        decisions.c.about_sequence.in_(sequences), decisions.c.kind == REATTRIBUTION
    )
    for posting in load(connection, postings_where(postings.c.sequence.in_(again)).order_by(postings.c.sequence)):
        decision = Decision.from_json(posting.evidence_json)
        if decision.links.about_sequence is not None:
            evidence = Evidence.from_json(canonical_json(decision.facts["evidence"]))
            found[decision.links.about_sequence] = _works(evidence)
    return found


def _works(evidence: Evidence) -> frozenset[TrainingImageId]:
    return frozenset(one.training_image_id for one in evidence.contributions if one.held_for is not None)
