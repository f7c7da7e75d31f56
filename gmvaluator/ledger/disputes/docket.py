"""Reading disputes: which there are, how they stand and what they hold."""

from __future__ import annotations

from sqlalchemy import Connection, select

from gmvaluator.accounts import HELD
from gmvaluator.errors import NotFound
from gmvaluator.ledger.corrections.state import amount_sum
from gmvaluator.ledger.decisions import DISPUTE, VERDICT, Decision
from gmvaluator.ledger.disputes.records import Dispute, Scope
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import decisions, entries, postings


def disputes(connection: Connection, dispute_id: str | None = None) -> list[Dispute]:
    """All disputes, or the one of that id, in the order in which they were opened."""
    opened = _of_kind(connection, DISPUTE, dispute_id)
    verdicts = {_decision(one).links.dispute_id: one for one in _of_kind(connection, VERDICT, dispute_id)}
    held = _held(connection)
    return [_dispute(one, verdicts.get(_decision(one).links.dispute_id), held) for one in opened]


def dispute(connection: Connection, dispute_id: str) -> Dispute:
    """One dispute. Raises NotFound."""
    found = disputes(connection, dispute_id)
    if not found:
        raise NotFound(f"there is no dispute {dispute_id[:100]!r}: see `gmvaluator ledger dispute list`")
    return found[0]


def open_disputes(connection: Connection) -> list[Dispute]:
    """Those not decided yet, and those decided whose credits are still held."""
    return [one for one in disputes(connection) if one.open or one.held_micros]


def _of_kind(connection: Connection, kind: str, dispute_id: str | None) -> list[StoredPosting]:
    sequences = select(decisions.c.sequence).where(decisions.c.kind == kind)
    if dispute_id is not None:
        sequences = sequences.where(decisions.c.dispute_id == dispute_id)
    found = list(connection.execute(sequences.order_by(decisions.c.sequence)).scalars())
    loaded: list[StoredPosting] = []
    for start in range(0, len(found), 500):
        within = postings.c.sequence.in_(found[start : start + 500])
        loaded.extend(load(connection, postings_where(within).order_by(postings.c.sequence)))
    return loaded


def _held(connection: Connection) -> dict[str, int]:
    query = (
        select(decisions.c.dispute_id, amount_sum)
        .select_from(decisions.join(entries, decisions.c.sequence == entries.c.sequence))
        .where(decisions.c.dispute_id.is_not(None), entries.c.account == HELD)
        .group_by(decisions.c.dispute_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _dispute(opened: StoredPosting, verdict: StoredPosting | None, held: dict[str, int]) -> Dispute:
    decision = _decision(opened)
    dispute_id = decision.links.dispute_id or ""
    found = Dispute(
        dispute_id,
        opened.header.generated_at,
        decision.reason,
        Scope.from_dict(decision.facts),
        held.get(dispute_id, 0),
    )
    if verdict is None:
        return found
    decided = _decision(verdict)
    award = decided.facts["award"]
    return Dispute(
        found.dispute_id,
        found.opened_at,
        found.reason,
        found.scope,
        found.held_micros,
        verdict.header.generated_at,
        decided.reason,
        None if award is None else tuple((account, share) for account, share in award),
    )


def _decision(posting: StoredPosting) -> Decision:
    return Decision.from_json(posting.evidence_json)
