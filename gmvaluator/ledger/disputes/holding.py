"""Holding what a dispute is about: from the owners' accounts to `held`, a posting for each generation concerned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select

from gmvaluator.ledger.corrections.consequences import recomputed_decision
from gmvaluator.ledger.corrections.lines import Place, plain_lines
from gmvaluator.ledger.corrections.state import Current, about, amount_sum, current_states
from gmvaluator.ledger.decisions import HOLD, Decision, Links, NewDecision, decision_id
from gmvaluator.ledger.disputes.records import Dispute, Scope
from gmvaluator.ledger.periods.balance import balance_of
from gmvaluator.ledger.records import OWNER_PREFIX, owner_account
from gmvaluator.ledger.schema import decisions, entries, postings

_AT_ONCE = 500
_AFTER_OWNERS = OWNER_PREFIX[:-1] + chr(ord(OWNER_PREFIX[-1]) + 1)


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
        select(about)
        .select_from(entries.outerjoin(decisions, decisions.c.sequence == entries.c.sequence))
        .where(
            entries.c.training_image_id == scope.training_image_id,
            entries.c.account > OWNER_PREFIX,
            entries.c.account < _AFTER_OWNERS,
        )
        .group_by(about, entries.c.account)
        .having(amount_sum > 0)
    )
    return sorted(set(connection.execute(query).scalars()))


def _newest_first(
    connection: Connection, ascending: Sequence[int], within: ColumnElement[bool] | None
) -> Iterator[Current]:
    """States of postings, read as they are asked for: a work may have been paid for a million of them."""
    for end in range(len(ascending), 0, -_AT_ONCE):
        some = ascending[max(end - _AT_ONCE, 0) : end]
        if within is not None:
            query = select(postings.c.sequence).where(postings.c.sequence.in_(some), within)
            some = connection.execute(query).scalars().all()
        yield from reversed(current_states(connection, some))


def _taken(connection: Connection, state: Current, scope: Scope, left: dict[str, int]) -> Iterator[tuple[Place, int]]:
    spared = None if scope.claimant is None else owner_account(scope.claimant)
    for (account, work), amount in sorted(state.amounts.items(), key=str):
        within = scope.training_image_id in (None, work)
        if not within or amount <= 0 or not account.startswith(OWNER_PREFIX) or account == spared:
            continue
        if account not in left:
            left[account] = balance_of(connection, account)
        taken = min(amount, left[account])
        if taken > 0:
            left[account] -= taken
            yield (account, work), taken


def _hold(dispute: Dispute, state: Current, lines: dict[Place, int], decided_at: datetime) -> NewDecision:
    revision = state.revision + 1
    facts = {"generation_id": state.generation_id, "lines": plain_lines(lines)}
    links = Links(state.sequence, revision, dispute.dispute_id)
    decision = Decision(HOLD, dispute.reason, facts, links)
    return NewDecision(decision_id(HOLD, state.sequence, revision), decided_at, decision, recomputed_decision(decision))
