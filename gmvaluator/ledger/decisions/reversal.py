"""Taking a posting back, and valuing it again under another policy: new postings, the past stays as it was.

What was decided about a posting, and another valuation must not undo: awards, and rights found by a release.

Rights of candidates that a posting did not pay, from the catalogue, where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, select

from gmvaluator.catalogue.store import open_if_present
from gmvaluator.errors import InvalidInput, NotFound, PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.current_amounts import CurrentAmounts, disputed_amounts, read_current_amounts
from gmvaluator.ledger.decision import (
    REATTRIBUTION,
    RELEASE,
    REVERSAL,
    SETTLEMENT,
    Decision,
    Links,
    NewDecision,
    checked_reason,
    decision_id,
)
from gmvaluator.ledger.decision_effects import amounts_to_json, decision_entries
from gmvaluator.ledger.decisions.revaluation import revalued
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.ledger.store import post_decisions
from gmvaluator.ports import WorkCard
from gmvaluator.storage.database import DataLocation
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.policy import Policy

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


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
    for posting in load_postings(connection, wanted.order_by(postings.c.sequence)):
        yield Decision.from_json(posting.evidence_json)


def reverse(book: Ledger, original: StoredPosting, reason: str, decided_at: datetime) -> StoredPosting:
    """Take back everything that a generation's posting holds now; asking again answers the same reversal.

    Raises PreconditionFailed while a dispute holds part of it, or if nothing is left of it.
    """
    with book.snapshot() as connection:
        state = _undisputed(connection, original)
        if not state.amounts:
            return _reversal_of(connection, original)
    facts = {"generation_id": state.generation_id, "found": amounts_to_json(state.amounts)}
    decision = Decision(REVERSAL, checked_reason(reason), facts, _next(state))
    return post_decisions(book, [_new(state, decision, decided_at)])[0]


def reattribute(
    book: Ledger,
    original: StoredPosting,
    policy: Policy,
    cards: Mapping[TrainingImageId, WorkCard],
    reason: str,
    decided_at: datetime,
) -> StoredPosting:
    """Value a generation's evidence again under `policy`, and post the difference to what it holds now.

    Works that were released are paid by the rights of their release. cards: rights at the generation's own time of
    candidates that were not paid before, where `policy` pays more of them. Raises PreconditionFailed while a dispute
    holds part of it, or if one ended with an award.
    """
    with book.snapshot() as connection:
        state = _undisputed(connection, original)
        require_no_award(connection, state.sequence, state.generation_id)
        released = released_rights(connection, state.sequence)
    again = revalued(original.evidence, policy, cards, released).evidence
    facts = {
        "generation_id": state.generation_id,
        "found": amounts_to_json(state.amounts),
        "evidence": json.loads(again.to_json()),
    }
    decision = Decision(REATTRIBUTION, checked_reason(reason), facts, _next(state))
    new = replace(_new(state, decision, decided_at), described=again.header_facts)
    return post_decisions(book, [new])[0]


def _next(state: CurrentAmounts) -> Links:
    return Links(about_sequence=state.sequence, revision=state.revision + 1)


def _new(state: CurrentAmounts, decision: Decision, decided_at: datetime) -> NewDecision:
    number = decision_id(decision.kind, state.sequence, state.revision + 1)
    return NewDecision(number, decided_at, decision, decision_entries(decision))


def _undisputed(connection: Connection, original: StoredPosting) -> CurrentAmounts:
    if original.header.kind != ATTRIBUTION:
        raise InvalidInput(
            f"{original.header.generation_id} is a decision: only a generation's posting can be corrected"
        )
    (state,) = read_current_amounts(connection, [original.sequence])
    if original.sequence in disputed_amounts(connection):
        raise PreconditionFailed(
            f"a dispute holds credits of generation {state.generation_id}: decide it first "
            "(`gmvaluator ledger dispute list`)"
        )
    return state


def _reversal_of(connection: Connection, original: StoredPosting) -> StoredPosting:
    of_this = (decisions.c.about_sequence == original.sequence) & (decisions.c.kind == REVERSAL)
    newest = select(decisions.c.sequence).where(of_this).order_by(decisions.c.sequence.desc()).limit(1)
    found = load_postings(connection, postings_where(postings.c.sequence == newest.scalar_subquery()))
    if not found:
        raise NotFound(f"generation {original.header.generation_id} issued nothing, so there is nothing to reverse")
    return found[0]


def near_cards(place: DataLocation, posting: StoredPosting) -> dict[TrainingImageId, WorkCard]:
    """Rights, at the generation's own time, of those who just missed being paid."""
    missed = [miss.training_image_id for miss in posting.evidence.near_misses]
    with open_if_present(place) as rights:
        if rights is None:
            return {}
        return rights.works(missed, from_utc_text(posting.header.generated_at))
