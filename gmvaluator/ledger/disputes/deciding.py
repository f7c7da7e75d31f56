"""The life of a dispute: open it, hold what it is about, decide it, give out what was held."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from gmvaluator.accounts import HELD
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ledger.corrections.consequences import recomputed_decision
from gmvaluator.ledger.corrections.lines import Place, plain_lines
from gmvaluator.ledger.corrections.state import amount_sum, current_states, disputed_amounts
from gmvaluator.ledger.deciding import decide
from gmvaluator.ledger.decisions import SETTLEMENT, Decision, Links, NewDecision, checked_reason, decision_id
from gmvaluator.ledger.disputes.docket import dispute, open_disputes
from gmvaluator.ledger.disputes.holding import holds
from gmvaluator.ledger.disputes.records import Award, Dispute, Scope, opening, verdict
from gmvaluator.ledger.periods.calendar import Period, read_calendar
from gmvaluator.ledger.schema import decisions, entries

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


def open_dispute(book: Ledger, dispute_id: str, scope: Scope, reason: str, decided_at: datetime) -> Dispute:
    """Open a dispute and hold what it is about; the same again holds what came in since.

    Raises GenerationConflict if the id was used for another dispute.
    """
    decide(book, [opening(dispute_id, scope, reason, decided_at)])
    return hold(book, dispute_id, decided_at)


def hold(book: Ledger, dispute_id: str, decided_at: datetime) -> Dispute:
    """Hold credits that came in since the last time. Raises NotFound."""
    with book.snapshot() as connection:
        due = holds(connection, dispute(connection, dispute_id), decided_at)
    decide(book, due)
    with book.snapshot() as connection:
        return dispute(connection, dispute_id)


def hold_all(book: Ledger, decided_at: datetime, period: Period | None = None) -> int:
    """Bring the holds of every open dispute up to date; the number of holds that were posted.

    period: only credits that belong to it or an earlier one; the holds are dated at its end, so that they belong to
    it as well.
    """
    when = decided_at if period is None else min(decided_at, period.end - timedelta(microseconds=1))
    with book.snapshot() as connection:
        found = [one for one in open_disputes(connection) if one.open]
    posted = 0
    for one in found:
        with book.snapshot() as connection:
            within = None if period is None else read_calendar(connection).upto(period)
            due = holds(connection, one, when, within)
        posted += len(decide(book, due))
    return posted


def decide_dispute(book: Ledger, dispute_id: str, award: Award | None, reason: str, decided_at: datetime) -> Dispute:
    """Decide a dispute: award what it holds, or with None give it back to those it was taken from.

    What came in since the last hold is held first. Deciding the same again finishes what was interrupted. Raises
    NotFound, and GenerationConflict if it was decided otherwise before.
    """
    reason = checked_reason(reason)
    with book.snapshot() as connection:
        found = dispute(connection, dispute_id)
    if found.open:
        found = hold(book, dispute_id, decided_at)
    decide(book, [verdict(dispute_id, award, reason, decided_at)])
    with book.snapshot() as connection:
        due = _settlements(connection, dispute_id, award, reason, decided_at)
    decide(book, due)
    with book.snapshot() as connection:
        settled = dispute(connection, dispute_id)
    if settled.held_micros:
        raise PreconditionFailed(f"dispute {dispute_id} still holds credits: decide it once more")
    return settled


def _settlements(
    connection: Connection, dispute_id: str, award: Award | None, reason: str, decided_at: datetime
) -> list[NewDecision]:
    held = disputed_amounts(connection, dispute_id)
    taken = _taken_from(connection, dispute_id)
    plain_award = None if award is None else [list(part) for part in award]
    found = []
    for state in current_states(connection, list(held)):
        revision = state.revision + 1
        facts = {
            "generation_id": state.generation_id,
            "held": [[str(work), amount] for (_, work), amount in sorted(held[state.sequence].items(), key=str)],
            "award": plain_award,
            "returned": [] if award is not None else plain_lines(taken[state.sequence]),
        }
        decision = Decision(SETTLEMENT, reason, facts, Links(state.sequence, revision, dispute_id))
        number = decision_id(SETTLEMENT, state.sequence, revision)
        found.append(NewDecision(number, decided_at, decision, recomputed_decision(decision)))
    return found


def _taken_from(connection: Connection, dispute_id: str) -> dict[int, dict[Place, int]]:
    """What a dispute took from each account, by posting."""
    query = (
        select(decisions.c.about_sequence, entries.c.account, entries.c.training_image_id, amount_sum)
        .select_from(decisions.join(entries, decisions.c.sequence == entries.c.sequence))
        .where(decisions.c.dispute_id == dispute_id, entries.c.account != HELD)
        .group_by(decisions.c.about_sequence, entries.c.account, entries.c.training_image_id)
    )
    taken: dict[int, dict[Place, int]] = {}
    for sequence, account, work, amount in connection.execute(query):
        if amount:
            taken.setdefault(sequence, {})[account, work] = -amount
    return taken
