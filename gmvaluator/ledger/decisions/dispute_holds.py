"""The life of a dispute: open it, hold what it is about, decide it, give out what was held.

Holding what a dispute is about: from the owners' accounts to `held`, a posting for each generation concerned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, select

from gmvaluator.accounts import HELD, OWNER_PREFIX, owner_account
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ledger.calendar import Period, read_calendar
from gmvaluator.ledger.current_amounts import CurrentAmounts, disputed_amounts, read_current_amounts
from gmvaluator.ledger.decision import HOLD, SETTLEMENT, Decision, Links, NewDecision, checked_reason, decision_id
from gmvaluator.ledger.decision_effects import AccountWork, amounts_to_json, decision_entries
from gmvaluator.ledger.decisions.disputes import Award, Dispute, Scope, dispute, open_disputes, opening, verdict
from gmvaluator.ledger.queries import amount_sum, concerned_sequence, entries_and_decisions, is_owner
from gmvaluator.ledger.reader import read_balance
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.ledger.store import post_decisions

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


_AT_ONCE = 500


def holds(
    connection: Connection,
    dispute: Dispute,
    decided_at: datetime,
    within: ColumnElement[bool] | None = None,
    limit: int | None = None,
) -> list[NewDecision]:
    """Holds that a dispute still needs, the newest generation first; none if all that can be held is held.

    within: condition on `postings`; only credits of those are held. limit: of holds; no generation is read after it.

    What was paid out cannot be held: of an account no more is taken than it has, from its newest credits.
    """
    if not dispute.open:
        return []
    left: dict[str, int] = {}
    found = []
    for state in _newest_first(connection, _concerned(connection, dispute.scope), within):
        lines = dict(_taken(connection, state, dispute.scope, left))
        if lines:
            found.append(_hold(dispute, state, lines, decided_at))
        if len(found) == limit:
            break
    return found


def _concerned(connection: Connection, scope: Scope) -> list[int]:
    """Postings of which an owner has something within the scope."""
    if scope.generation_sequence is not None:
        return [scope.generation_sequence]
    query = (
        select(concerned_sequence)
        .select_from(entries_and_decisions)
        .where(
            entries.c.training_image_id == scope.training_image_id,
            is_owner(entries.c.account),
        )
        .group_by(concerned_sequence, entries.c.account)
        .having(amount_sum > 0)
    )
    return sorted(set(connection.execute(query).scalars()))


def _newest_first(
    connection: Connection, ascending: Sequence[int], within: ColumnElement[bool] | None
) -> Iterator[CurrentAmounts]:
    """States of postings, read as they are asked for: a work may have been paid for a million of them."""
    for end in range(len(ascending), 0, -_AT_ONCE):
        some = ascending[max(end - _AT_ONCE, 0) : end]
        if within is not None:
            query = select(postings.c.sequence).where(postings.c.sequence.in_(some), within)
            some = connection.execute(query).scalars().all()
        yield from reversed(read_current_amounts(connection, some))


def _taken(
    connection: Connection, state: CurrentAmounts, scope: Scope, left: dict[str, int]
) -> Iterator[tuple[AccountWork, int]]:
    spared = None if scope.claimant is None else owner_account(scope.claimant)
    for (account, work), amount in sorted(state.amounts.items(), key=str):
        within = scope.training_image_id in (None, work)
        if not within or amount <= 0 or not account.startswith(OWNER_PREFIX) or account == spared:
            continue
        if account not in left:
            left[account] = read_balance(connection, account)
        taken = min(amount, left[account])
        if taken > 0:
            left[account] -= taken
            yield (account, work), taken


def _hold(dispute: Dispute, state: CurrentAmounts, lines: dict[AccountWork, int], decided_at: datetime) -> NewDecision:
    revision = state.revision + 1
    facts = {"generation_id": state.generation_id, "lines": amounts_to_json(lines)}
    links = Links(state.sequence, revision, dispute.dispute_id)
    decision = Decision(HOLD, dispute.reason, facts, links)
    return NewDecision(decision_id(HOLD, state.sequence, revision), decided_at, decision, decision_entries(decision))


def open_dispute(book: Ledger, dispute_id: str, scope: Scope, reason: str, decided_at: datetime) -> Dispute:
    """Open a dispute and hold what it is about; the same again holds what came in since.

    Raises GenerationConflict if the id was used for another dispute.
    """
    post_decisions(book, [opening(dispute_id, scope, reason, decided_at)])
    return hold(book, dispute_id, decided_at)


def hold(book: Ledger, dispute_id: str, decided_at: datetime) -> Dispute:
    """Hold credits that came in since the last time. Raises NotFound."""
    with book.snapshot() as connection:
        due = holds(connection, dispute(connection, dispute_id), decided_at)
    post_decisions(book, due)
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
        posted += len(post_decisions(book, due))
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
    post_decisions(book, [verdict(dispute_id, award, reason, decided_at)])
    with book.snapshot() as connection:
        due = _settlements(connection, dispute_id, award, reason, decided_at)
    post_decisions(book, due)
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
    for state in read_current_amounts(connection, list(held)):
        revision = state.revision + 1
        facts = {
            "generation_id": state.generation_id,
            "held": [[str(work), amount] for (_, work), amount in sorted(held[state.sequence].items(), key=str)],
            "award": plain_award,
            "returned": [] if award is not None else amounts_to_json(taken[state.sequence]),
        }
        decision = Decision(SETTLEMENT, reason, facts, Links(state.sequence, revision, dispute_id))
        number = decision_id(SETTLEMENT, state.sequence, revision)
        found.append(NewDecision(number, decided_at, decision, decision_entries(decision)))
    return found


def _taken_from(connection: Connection, dispute_id: str) -> dict[int, dict[AccountWork, int]]:
    """What a dispute took from each account, by posting."""
    query = (
        select(decisions.c.about_sequence, entries.c.account, entries.c.training_image_id, amount_sum)
        .select_from(decisions.join(entries, decisions.c.sequence == entries.c.sequence))
        .where(decisions.c.dispute_id == dispute_id, entries.c.account != HELD)
        .group_by(decisions.c.about_sequence, entries.c.account, entries.c.training_image_id)
    )
    taken: dict[int, dict[AccountWork, int]] = {}
    for sequence, account, work, amount in connection.execute(query):
        if amount:
            taken.setdefault(sequence, {})[account, work] = -amount
    return taken
