"""References of payouts, such as the bank's: entries about a payout that are added once the money has moved.

A reference moves no credits. The newest one of a payout counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, select, true

from gmvaluator.errors import NotFound
from gmvaluator.ledger.calendar import Period
from gmvaluator.ledger.current_amounts import read_current_amounts
from gmvaluator.ledger.decision import PAYOUT, REFERENCE, Decision, Links, NewDecision, decision_id
from gmvaluator.ledger.payouts.payouts import dated, payout_id
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.text import written_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger

MAX_REFERENCE_CHARACTERS = 200

_SEQUENCES_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class Added:
    """Result of `add_reference`. payouts: the number of payouts it is about. posted: how many had another or none."""

    payouts: int
    posted: int


def add_reference(
    book: Ledger, period: Period, reference: str, decided_at: datetime, account: str | None = None
) -> Added:
    """Add a reference to the payouts of a period, or only to that of one account; repeating the call posts nothing.

    Raises InvalidInput for a reference that is no line of 1-200 characters, and NotFound if no such payout was posted.
    """
    text = written_text("the reference", reference, MAX_REFERENCE_CHARACTERS)
    # Dated as payouts are, so that the statement that lists the payout shows its reference while it is open.
    dated_at = dated(period, decided_at)

    def decide(transaction: LedgerTransaction) -> Added:
        connection = transaction.connection
        sequences = _payouts(connection, period, account)
        if not sequences:
            raise NotFound(f"no payout of {period}{f' to {account}' if account else ''} was posted")
        known = newest_references(connection, sequences)
        due = [sequence for sequence in sequences if known.get(sequence) != text]
        states = read_current_amounts(connection, due)
        transaction.post([_new(current.sequence, current.revision + 1, period, text, dated_at) for current in states])
        return Added(len(sequences), len(due))

    return book.decide(decide)


def newest_references(
    connection: Connection, payouts: Sequence[int], condition: ColumnElement[bool] | None = None
) -> dict[int, str]:
    """Return the newest reference of each of these payouts that has one, by the payout's sequence.

    condition: on `postings`, which restricts the references that count.
    """
    references: dict[int, str] = {}
    for start in range(0, len(payouts), _SEQUENCES_PER_QUERY):
        batch = payouts[start : start + _SEQUENCES_PER_QUERY]
        about = (decisions.c.kind == REFERENCE) & decisions.c.about_sequence.in_(batch)
        within = true() if condition is None else condition
        query = postings_where(postings.c.sequence.in_(select(decisions.c.sequence).where(about)) & within)
        for posting in load_postings(connection, query.order_by(postings.c.sequence)):
            decision = Decision.from_json(posting.evidence_json)
            references[decision.links.about_sequence or 0] = decision.reason
    return references


def _payouts(connection: Connection, period: Period, account: str | None) -> list[int]:
    query = select(decisions.c.sequence).join(postings, postings.c.sequence == decisions.c.sequence)
    query = query.where(decisions.c.kind == PAYOUT, decisions.c.period == str(period))
    if account is not None:
        query = query.where(postings.c.generation_id == payout_id(period, account))
    return list(connection.execute(query.order_by(decisions.c.sequence)).scalars())


def _new(sequence: int, revision: int, period: Period, reference: str, decided_at: datetime) -> NewDecision:
    links = Links(about_sequence=sequence, revision=revision, period=str(period))
    return NewDecision(
        decision_id(REFERENCE, sequence, revision), decided_at, Decision(REFERENCE, reference, {}, links)
    )
