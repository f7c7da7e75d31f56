"""Current amounts of earlier postings: what they posted plus everything that decisions about them have moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from gmvaluator.accounts import HELD, SUSPENSE
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.decision import REATTRIBUTION, Decision
from gmvaluator.ledger.decision_effects import AccountWork
from gmvaluator.ledger.hash_chain import canonical_json
from gmvaluator.ledger.queries import amount_sum, concerned_sequence, entries_and_decisions
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION, Evidence
from gmvaluator.ledger.schema import decisions, entries, postings

_SEQUENCES_PER_QUERY = 500
"""Number of postings in one query, which stays below every engine's limit of parameters."""


# Amounts are tracked for each posting and not as sums by owner: after a dispute that was held as a sum nobody could say
# what the reversal of one generation takes from whom.
@dataclass(frozen=True, slots=True)
class CurrentAmounts:
    """The amounts of one posting as they are now, zeros left out. revision: number of decisions about it so far."""

    sequence: int
    generation_id: str
    generated_at: str
    revision: int
    amounts: dict[AccountWork, int]


def read_current_amounts(connection: Connection, sequences: Sequence[int]) -> list[CurrentAmounts]:
    """Return the current amounts of each of `sequences` that exists, ascending."""
    states: list[CurrentAmounts] = []
    ordered = sorted(set(sequences))
    for start in range(0, len(ordered), _SEQUENCES_PER_QUERY):
        states.extend(_read_batch(connection, ordered[start : start + _SEQUENCES_PER_QUERY]))
    return states


def _read_batch(connection: Connection, sequences: Sequence[int]) -> Iterable[CurrentAmounts]:
    headers = select(postings.c.sequence, postings.c.generation_id, postings.c.generated_at)
    headers = headers.where(postings.c.sequence.in_(sequences)).order_by(postings.c.sequence)
    latest = select(decisions.c.about_sequence, func.max(decisions.c.revision))
    latest = latest.where(decisions.c.about_sequence.in_(sequences)).group_by(decisions.c.about_sequence)
    revisions: dict[int, int] = {row[0]: row[1] for row in connection.execute(latest)}
    amounts = _amounts(connection, sequences)
    for sequence, generation_id, generated_at in connection.execute(headers).all():
        yield CurrentAmounts(
            sequence, generation_id, generated_at, revisions.get(sequence, 0), amounts.get(sequence, {})
        )


def _amounts(connection: Connection, sequences: Sequence[int]) -> dict[int, dict[AccountWork, int]]:
    corrected = select(decisions.c.sequence).where(decisions.c.about_sequence.in_(sequences))
    query = (
        select(concerned_sequence, entries.c.account, entries.c.training_image_id, amount_sum)
        .select_from(entries_and_decisions)
        .where(or_(entries.c.sequence.in_(sequences), entries.c.sequence.in_(corrected)))
        .group_by(concerned_sequence, entries.c.account, entries.c.training_image_id)
        .having(amount_sum != 0)
    )
    amounts: dict[int, dict[AccountWork, int]] = {}
    for sequence, account, work, amount in connection.execute(query):
        amounts.setdefault(sequence, {})[account, work] = amount
    return amounts


def postings_to_release(connection: Connection, after: int, limit: int) -> list[int]:
    """Return up to `limit` postings after `after`, ascending, whose credit is partly in suspense or held.

    Amounts that a dispute put into held are not counted: a verdict moves those, not a release.
    """
    query = (
        select(concerned_sequence)
        .select_from(entries_and_decisions)
        .where(
            entries.c.account.in_((SUSPENSE, HELD)),
            entries.c.training_image_id.is_not(None),
            decisions.c.dispute_id.is_(None),
        )
        .group_by(concerned_sequence, entries.c.account, entries.c.training_image_id)
        .having(amount_sum > 0, concerned_sequence > after)
    )
    sequence = query.subquery().c[0]
    return list(connection.execute(select(sequence).distinct().order_by(sequence).limit(limit)).scalars())


def disputed_amounts(connection: Connection, dispute_id: str | None = None) -> dict[int, dict[AccountWork, int]]:
    """Return what disputes hold of each posting, as amounts of `held` by work; only of one dispute if it is named."""
    of_disputes = decisions.c.dispute_id.is_not(None) if dispute_id is None else decisions.c.dispute_id == dispute_id
    query = (
        select(decisions.c.about_sequence, entries.c.training_image_id, amount_sum)
        .select_from(decisions.join(entries, decisions.c.sequence == entries.c.sequence))
        .where(of_disputes, entries.c.account == HELD, decisions.c.about_sequence.is_not(None))
        .group_by(decisions.c.about_sequence, entries.c.training_image_id)
        .having(amount_sum != 0)
        .order_by(decisions.c.about_sequence)
    )
    held: dict[int, dict[AccountWork, int]] = {}
    for sequence, work, amount in connection.execute(query):
        held.setdefault(sequence, {})[HELD, work] = amount
    return held


def works_of(states: Iterable[CurrentAmounts]) -> list[TrainingImageId]:
    """Return the different works for which the states hold credit, in id order."""
    return sorted({work for state in states for _, work in state.amounts if work is not None})


def held_back_works(connection: Connection, sequences: Sequence[int]) -> dict[int, frozenset[TrainingImageId]]:
    """Return, by posting, the works whose credit its policy held back as too uncertain.

    For a posting that was valued again by a decision, the newest decision's evidence counts.
    """
    works: dict[int, frozenset[TrainingImageId]] = {}
    for posting in load_postings(connection, postings_where(postings.c.sequence.in_(sequences))):
        if posting.header.kind == ATTRIBUTION:
            works[posting.sequence] = _held_back_in(posting.evidence)
    # In order of sequence, so that the newest evidence of a posting replaces the ones before it.
    again = select(decisions.c.sequence).where(
        decisions.c.about_sequence.in_(sequences), decisions.c.kind == REATTRIBUTION
    )
    for posting in load_postings(
        connection, postings_where(postings.c.sequence.in_(again)).order_by(postings.c.sequence)
    ):
        decision = Decision.from_json(posting.evidence_json)
        if decision.links.about_sequence is not None:
            evidence = Evidence.from_json(canonical_json(decision.facts["evidence"]))
            works[decision.links.about_sequence] = _held_back_in(evidence)
    return works


def _held_back_in(evidence: Evidence) -> frozenset[TrainingImageId]:
    return frozenset(
        contribution.training_image_id for contribution in evidence.contributions if contribution.held_for is not None
    )
