"""Effects of a dispute on credits: hold what it is about, and award or return what is held when it is decided.

A hold moves credits from owners' accounts to `held`; there is one posting for each generation concerned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, select

from gmvaluator.accounts import HELD, OWNER_PREFIX, owner_account
from gmvaluator.ledger.calendar import Period, read_calendar
from gmvaluator.ledger.current_amounts import CurrentAmounts, disputed_amounts, read_current_amounts
from gmvaluator.ledger.decision import HOLD, SETTLEMENT, Decision, Links, NewDecision, checked_reason, decision_id
from gmvaluator.ledger.decision_effects import AccountWork, amounts_to_json, decision_entries
from gmvaluator.ledger.decisions.disputes import (
    Award,
    Dispute,
    Scope,
    opening_decision,
    read_dispute,
    read_unsettled_disputes,
    verdict_decision,
)
from gmvaluator.ledger.queries import amount_sum, concerned_sequence, entries_and_decisions, is_owner
from gmvaluator.ledger.reader import read_balance, read_head
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.ledger.transaction import LedgerTransaction

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger

POSTINGS_PER_QUERY = 500
"""Postings whose amounts `due_holds` reads at once."""


def due_holds(
    connection: Connection,
    dispute: Dispute,
    decided_at: datetime,
    within: ColumnElement[bool] | None = None,
    limit: int | None = None,
    postings_per_query: int = POSTINGS_PER_QUERY,
    concerned: Sequence[int] | None = None,
) -> list[NewDecision]:
    """Return the holds that a dispute still needs, the newest generation first; none if everything possible is held.

    within: condition on `postings`, which restricts the credits to hold. limit: number of holds to return; no
    generation is read after it is reached. concerned: the postings to look at, found by `search_holds`; None for all.

    Credits that were paid out cannot be held: no more is taken from an account than its balance, from its newest
    credits first.
    """
    if not dispute.open:
        return []
    balances_left: dict[str, int] = {}
    holds: list[NewDecision] = []
    ascending = _concerned_postings(connection, dispute.scope) if concerned is None else sorted(concerned)
    for current in _read_newest_first(connection, ascending, within, postings_per_query):
        lines = dict(_amounts_to_hold(connection, current, dispute.scope, balances_left))
        if lines:
            holds.append(_hold(dispute, current, lines, decided_at))
        if len(holds) == limit:
            break
    return holds


def _concerned_postings(connection: Connection, scope: Scope) -> list[int]:
    """Return the sequences, ascending, of the postings from which an owner has credit within the scope."""
    if scope.generation_sequence is not None:
        return [scope.generation_sequence]
    query = (
        select(concerned_sequence)
        .select_from(entries_and_decisions)
        .where(entries.c.training_image_id == scope.training_image_id, is_owner(entries.c.account))
        .group_by(concerned_sequence, entries.c.account)
        .having(amount_sum > 0)
    )
    return sorted(set(connection.execute(query).scalars()))


def _touched_since(connection: Connection, scope: Scope, sequence: int) -> list[int]:
    """Return the postings within the scope whose amounts changed after a posting, also by decisions about them."""
    if scope.generation_sequence is not None:
        return [scope.generation_sequence]
    query = select(concerned_sequence).select_from(entries_and_decisions)
    query = query.where(entries.c.sequence > sequence, entries.c.training_image_id == scope.training_image_id)
    return list(connection.execute(query.distinct()).scalars())


def _read_newest_first(
    connection: Connection, ascending: Sequence[int], within: ColumnElement[bool] | None, postings_per_query: int
) -> Iterator[CurrentAmounts]:
    """Read the current amounts of postings, the newest first, in batches and on demand."""
    # A work may have been credited by a million postings, of which a caller with a limit needs a few hundred.
    for end in range(len(ascending), 0, -postings_per_query):
        batch = ascending[max(end - postings_per_query, 0) : end]
        if within is not None:
            query = select(postings.c.sequence).where(postings.c.sequence.in_(batch), within)
            batch = connection.execute(query).scalars().all()
        yield from reversed(read_current_amounts(connection, batch))


def _amounts_to_hold(
    connection: Connection, current: CurrentAmounts, scope: Scope, balances_left: dict[str, int]
) -> Iterator[tuple[AccountWork, int]]:
    """Yield what can be taken of one posting, by account and work, and reduce `balances_left` by it."""
    claimant = None if scope.claimant is None else owner_account(scope.claimant)
    for (account, work), amount in sorted(current.amounts.items(), key=str):
        if not scope.covers(work) or amount <= 0 or not account.startswith(OWNER_PREFIX) or account == claimant:
            continue
        if account not in balances_left:
            balances_left[account] = read_balance(connection, account)
        taken = min(amount, balances_left[account])
        if taken > 0:
            balances_left[account] -= taken
            yield (account, work), taken


def _hold(
    dispute: Dispute, current: CurrentAmounts, lines: dict[AccountWork, int], decided_at: datetime
) -> NewDecision:
    revision = current.revision + 1
    facts = {"generation_id": current.generation_id, "lines": amounts_to_json(lines)}
    decision = Decision(HOLD, dispute.reason, facts, Links(current.sequence, revision, dispute.dispute_id))
    hold_id = decision_id(HOLD, current.sequence, revision)
    return NewDecision(hold_id, decided_at, decision, decision_entries(decision))


def search_holds(connection: Connection, scope: Scope, limit: int | None = None) -> list[int]:
    """Return the postings of which a dispute about `scope` would hold credits now, at most `limit`, the newest first.

    Reads all entries if the scope is a work. A decision looks at these postings only, and decides again what it holds.
    """
    dispute = Dispute("", "", "", scope, held_micros=0)
    holds = due_holds(connection, dispute, datetime.now(UTC), limit=limit)
    return [hold.decision.links.about_sequence for hold in holds if hold.decision.links.about_sequence is not None]


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened dispute. sequence: the posting that opened it, now or before."""

    dispute: Dispute
    sequence: int


def decide_opening(
    transaction: LedgerTransaction,
    dispute_id: str,
    scope: Scope,
    reason: str,
    decided_at: datetime,
    concerned: Sequence[int],
) -> Opened:
    """Open a dispute and hold its credits of the postings `concerned`, both in one transaction.

    Raises GenerationConflict if the id was used for another dispute.
    """
    (opening,) = transaction.post([opening_decision(dispute_id, scope, reason, decided_at)])
    return Opened(decide_hold(transaction, dispute_id, decided_at, concerned), opening.sequence)


def decide_hold(
    transaction: LedgerTransaction, dispute_id: str, decided_at: datetime, concerned: Sequence[int]
) -> Dispute:
    """Hold what the dispute still needs of the postings `concerned`, and return the dispute. Raises NotFound."""
    dispute = read_dispute(transaction.connection, dispute_id)
    transaction.post(due_holds(transaction.connection, dispute, decided_at, concerned=concerned))
    return read_dispute(transaction.connection, dispute_id)


def open_dispute(book: Ledger, dispute_id: str, scope: Scope, reason: str, decided_at: datetime) -> Dispute:
    """Open a dispute and hold what it is about; repeating the call holds credits that were posted since.

    Raises GenerationConflict if the id was used for another dispute.
    """
    with book.snapshot() as connection:
        concerned = search_holds(connection, scope)
    return book.decide(
        lambda transaction: decide_opening(transaction, dispute_id, scope, reason, decided_at, concerned).dispute
    )


def hold(book: Ledger, dispute_id: str, decided_at: datetime) -> Dispute:
    """Hold credits that were posted since the last hold. Raises NotFound."""
    with book.snapshot() as connection:
        concerned = search_holds(connection, read_dispute(connection, dispute_id).scope)
    return book.decide(lambda transaction: decide_hold(transaction, dispute_id, decided_at, concerned))


@dataclass(frozen=True, slots=True)
class Searched:
    """Postings that concern each open dispute, by its id, as of posting `through`."""

    through: int
    concerned: Mapping[str, Sequence[int]]

    def concerning(self, connection: Connection, dispute: Dispute) -> Sequence[int] | None:
        """Return the postings that concern a dispute now; None if it was opened since the search."""
        if dispute.dispute_id not in self.concerned:
            return None
        since = _touched_since(connection, dispute.scope, self.through)
        return sorted({*self.concerned[dispute.dispute_id], *since})


def search_disputes(book: Ledger) -> Searched:
    """Search for the postings that concern the open disputes. Reads all entries once for each dispute about a work."""
    with book.snapshot() as connection:
        undecided = [dispute for dispute in read_unsettled_disputes(connection) if dispute.open]
        concerned = {dispute.dispute_id: _concerned_postings(connection, dispute.scope) for dispute in undecided}
        return Searched(read_head(connection).sequence, concerned)


def hold_all(
    transaction: LedgerTransaction, searched: Searched, decided_at: datetime, period: Period | None = None
) -> int:
    """Post the holds that open disputes still need, and return their number.

    searched: made before the transaction, which is shorter for it. period: only credits that belong to it or an earlier
    one are held, and the holds are dated at its end at the latest, so that they belong to it as well.
    """
    connection = transaction.connection
    dated_at = decided_at if period is None else min(decided_at, period.end - timedelta(microseconds=1))
    within = None if period is None else read_calendar(connection).upto(period)
    posted = 0
    # One after another: two disputes may be about the same credits, of which the first leaves less.
    for dispute in read_unsettled_disputes(connection):
        concerned = searched.concerning(connection, dispute)
        posted += len(transaction.post(due_holds(connection, dispute, dated_at, within, concerned=concerned)))
    return posted


def decide_dispute(book: Ledger, dispute_id: str, award: Award | None, reason: str, decided_at: datetime) -> Dispute:
    """Decide a dispute: award what it holds, or return it to the accounts it came from if `award` is None.

    Credits that were posted since the last hold are held first. Repeating the call changes nothing. Raises NotFound,
    and GenerationConflict if it was decided otherwise before.
    """
    reason = checked_reason(reason)
    with book.snapshot() as connection:
        concerned = search_holds(connection, read_dispute(connection, dispute_id).scope)

    def decide(transaction: LedgerTransaction) -> Dispute:
        decide_hold(transaction, dispute_id, decided_at, concerned)
        transaction.post([verdict_decision(dispute_id, award, reason, decided_at)])
        transaction.post(_settlements(transaction.connection, dispute_id, award, reason, decided_at))
        return read_dispute(transaction.connection, dispute_id)

    return book.decide(decide)


def _settlements(
    connection: Connection, dispute_id: str, award: Award | None, reason: str, decided_at: datetime
) -> list[NewDecision]:
    """Return the postings that move everything the dispute holds, one for each generation."""
    held = disputed_amounts(connection, dispute_id)
    taken = _amounts_taken(connection, dispute_id)
    plain_award = None if award is None else [list(part) for part in award]
    settlements: list[NewDecision] = []
    for current in read_current_amounts(connection, list(held)):
        revision = current.revision + 1
        facts = {
            "generation_id": current.generation_id,
            "held": [[str(work), amount] for (_, work), amount in sorted(held[current.sequence].items(), key=str)],
            "award": plain_award,
            "returned": [] if award is not None else amounts_to_json(taken[current.sequence]),
        }
        decision = Decision(SETTLEMENT, reason, facts, Links(current.sequence, revision, dispute_id))
        settlement_id = decision_id(SETTLEMENT, current.sequence, revision)
        settlements.append(NewDecision(settlement_id, decided_at, decision, decision_entries(decision)))
    return settlements


def _amounts_taken(connection: Connection, dispute_id: str) -> dict[int, dict[AccountWork, int]]:
    """Return what a dispute took, by the posting's sequence, then by account and work."""
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
