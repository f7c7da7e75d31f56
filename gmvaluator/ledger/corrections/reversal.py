"""Taking a posting back, and valuing it again under another policy: new postings, the past stays as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from gmvaluator.errors import InvalidInput, NotFound, PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.corrections.consequences import recomputed_decision
from gmvaluator.ledger.corrections.decided import released_rights, require_no_award
from gmvaluator.ledger.corrections.lines import plain_lines
from gmvaluator.ledger.corrections.revaluation import revalued
from gmvaluator.ledger.corrections.state import Current, current_states, disputed_amounts
from gmvaluator.ledger.deciding import decide
from gmvaluator.ledger.decisions import (
    REATTRIBUTION,
    REVERSAL,
    Decision,
    Links,
    NewDecision,
    checked_reason,
    decision_id,
)
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.policy import Policy
from gmvaluator.ports import WorkCard

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


def reverse(book: Ledger, original: StoredPosting, reason: str, decided_at: datetime) -> StoredPosting:
    """Take back everything that a generation's posting holds now; asking again answers the same reversal.

    Raises PreconditionFailed while a dispute holds part of it, or if nothing is left of it.
    """
    with book.snapshot() as connection:
        state = _undisputed(connection, original)
        if not state.amounts:
            return _reversal_of(connection, original)
    facts = {"generation_id": state.generation_id, "found": plain_lines(state.amounts)}
    decision = Decision(REVERSAL, checked_reason(reason), facts, _next(state))
    return decide(book, [_new(state, decision, decided_at)])[0]


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
        "found": plain_lines(state.amounts),
        "evidence": json.loads(again.to_json()),
    }
    decision = Decision(REATTRIBUTION, checked_reason(reason), facts, _next(state))
    new = replace(_new(state, decision, decided_at), described=again.header_facts)
    return decide(book, [new])[0]


def _next(state: Current) -> Links:
    return Links(about_sequence=state.sequence, revision=state.revision + 1)


def _new(state: Current, decision: Decision, decided_at: datetime) -> NewDecision:
    number = decision_id(decision.kind, state.sequence, state.revision + 1)
    return NewDecision(number, decided_at, decision, recomputed_decision(decision))


def _undisputed(connection: Connection, original: StoredPosting) -> Current:
    if original.header.kind != ATTRIBUTION:
        raise InvalidInput(
            f"{original.header.generation_id} is a decision: only a generation's posting can be corrected"
        )
    (state,) = current_states(connection, [original.sequence])
    if original.sequence in disputed_amounts(connection):
        raise PreconditionFailed(
            f"a dispute holds credits of generation {state.generation_id}: decide it first "
            "(`gmvaluator ledger dispute list`)"
        )
    return state


def _reversal_of(connection: Connection, original: StoredPosting) -> StoredPosting:
    of_this = (decisions.c.about_sequence == original.sequence) & (decisions.c.kind == REVERSAL)
    newest = select(decisions.c.sequence).where(of_this).order_by(decisions.c.sequence.desc()).limit(1)
    found = load(connection, postings_where(postings.c.sequence == newest.scalar_subquery()))
    if not found:
        raise NotFound(f"generation {original.header.generation_id} issued nothing, so there is nothing to reverse")
    return found[0]
