"""Reversal of a posting, and its valuation under another policy, by new postings; past postings never change."""

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
from gmvaluator.ledger.decisions.revaluation import revalue
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.ports import WorkCard
from gmvaluator.storage.database import DataLocation
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.policy import Policy

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


def require_no_award(connection: Connection, sequence: int, generation_id: str) -> None:
    """Raise PreconditionFailed if a dispute about this posting ended with an award."""
    for decision in _decisions_about(connection, sequence, SETTLEMENT):
        if decision.facts["award"] is not None:
            raise PreconditionFailed(
                f"dispute {decision.links.dispute_id} awarded credits of generation {generation_id}, which another "
                "valuation would take back: `gmvaluator ledger reverse` takes all of them back, awarded ones too"
            )


def released_rights(connection: Connection, sequence: int) -> dict[TrainingImageId, tuple[tuple[str, int], ...]]:
    """Return the (account, ppm) pairs by which each released work was last released."""
    return {
        TrainingImageId(UUID(work["training_image_id"])): tuple((account, share) for account, share in work["rights"])
        for decision in _decisions_about(connection, sequence, RELEASE)
        for work in decision.facts["works"]
    }


def _decisions_about(connection: Connection, sequence: int, kind: str) -> Iterator[Decision]:
    """Yield the decisions of a kind about a posting, earliest first."""
    about = (decisions.c.about_sequence == sequence) & (decisions.c.kind == kind)
    query = postings_where(postings.c.sequence.in_(select(decisions.c.sequence).where(about)))
    for posting in load_postings(connection, query.order_by(postings.c.sequence)):
        yield Decision.from_json(posting.evidence_json)


def reverse(book: Ledger, original: StoredPosting, reason: str, decided_at: datetime) -> StoredPosting:
    """Take back all current amounts of a generation's posting; return the existing reversal if there is one.

    Raises InvalidInput if the posting is a decision, PreconditionFailed while a dispute holds part of its credits, and
    NotFound if it issued nothing.
    """

    def decide(transaction: LedgerTransaction) -> StoredPosting:
        current = _undisputed(transaction.connection, original)
        # Nothing left means that it was reversed before, or issued nothing.
        if not current.amounts:
            return _reversal_of(transaction.connection, original)
        facts = {"generation_id": current.generation_id, "found": amounts_to_json(current.amounts)}
        decision = Decision(REVERSAL, checked_reason(reason), facts, _next_links(current))
        return transaction.post([_new(current, decision, decided_at)])[0]

    return book.decide(decide)


def reattribute(
    book: Ledger,
    original: StoredPosting,
    policy: Policy,
    cards: Mapping[TrainingImageId, WorkCard],
    reason: str,
    decided_at: datetime,
) -> StoredPosting:
    """Value a generation's evidence under `policy`, and post the difference to its current amounts.

    Released works are paid by the rights of their release. cards: rights, at the generation's own time, of near misses,
    which `policy` may pay. Raises InvalidInput if the posting is a decision, and PreconditionFailed while a dispute
    holds part of its credits, or if one ended with an award.
    """

    def decide(transaction: LedgerTransaction) -> StoredPosting:
        current = _undisputed(transaction.connection, original)
        # The evidence knows nothing of later decisions: valued again as it is, it would undo awards and releases.
        require_no_award(transaction.connection, current.sequence, current.generation_id)
        released = released_rights(transaction.connection, current.sequence)
        again = revalue(original.evidence, policy, cards, released).evidence
        facts = {
            "generation_id": current.generation_id,
            "found": amounts_to_json(current.amounts),
            "evidence": json.loads(again.to_json()),
        }
        decision = Decision(REATTRIBUTION, checked_reason(reason), facts, _next_links(current))
        return transaction.post([replace(_new(current, decision, decided_at), described=again.header_facts)])[0]

    return book.decide(decide)


def _next_links(current: CurrentAmounts) -> Links:
    return Links(about_sequence=current.sequence, revision=current.revision + 1)


def _new(current: CurrentAmounts, decision: Decision, decided_at: datetime) -> NewDecision:
    # The id contains the revision, so that of two decisions made from the same state only one can be posted.
    new_id = decision_id(decision.kind, current.sequence, current.revision + 1)
    return NewDecision(new_id, decided_at, decision, decision_entries(decision))


def _undisputed(connection: Connection, original: StoredPosting) -> CurrentAmounts:
    """Return the current amounts of a generation's posting of which no dispute holds any."""
    if original.header.kind != ATTRIBUTION:
        raise InvalidInput(
            f"{original.header.generation_id} is a decision: only a generation's posting can be corrected"
        )
    (current,) = read_current_amounts(connection, [original.sequence])
    if original.sequence in disputed_amounts(connection):
        raise PreconditionFailed(
            f"a dispute holds credits of generation {current.generation_id}: decide it first "
            "(`gmvaluator ledger dispute list`)"
        )
    return current


def _reversal_of(connection: Connection, original: StoredPosting) -> StoredPosting:
    about = (decisions.c.about_sequence == original.sequence) & (decisions.c.kind == REVERSAL)
    newest = select(decisions.c.sequence).where(about).order_by(decisions.c.sequence.desc()).limit(1)
    reversals = load_postings(connection, postings_where(postings.c.sequence == newest.scalar_subquery()))
    if not reversals:
        raise NotFound(f"generation {original.header.generation_id} issued nothing, so there is nothing to reverse")
    return reversals[0]


def near_miss_cards(place: DataLocation, posting: StoredPosting) -> dict[TrainingImageId, WorkCard]:
    """Return the rights, at the generation's own time, of its near misses; none if there is no catalogue."""
    missed = [miss.training_image_id for miss in posting.evidence.near_misses]
    with open_if_present(place) as rights:
        if rights is None:
            return {}
        return rights.works(missed, from_utc_text(posting.header.generated_at))
