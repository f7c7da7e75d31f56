"""What a period did to accounts: credits by work, every decision with its id and reason, and payouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, case, cast, distinct, func, select

from gmvaluator.database.utc import utc_text
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.corrections.state import amount_sum
from gmvaluator.ledger.decisions import HOLD, PAYOUT, SETTLEMENT, Decision
from gmvaluator.ledger.periods.calendar import Calendar, Period
from gmvaluator.ledger.records import ATTRIBUTION, OWNER_PREFIX
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import decisions, entries, postings

_POSTINGS_PER_QUERY = 500
_AFTER_OWNERS = OWNER_PREFIX[:-1] + chr(ord(OWNER_PREFIX[-1]) + 1)

HOLDS = (HOLD, SETTLEMENT)
"""Kinds that a statement shows as holds; other decisions but payouts are adjustments."""


@dataclass(frozen=True, slots=True)
class WorkCredit:
    """Credits for one work. late_micros: the part of generations whose own time lies in an earlier period."""

    training_image_id: TrainingImageId
    generations: int
    credit_micros: int
    late_micros: int


@dataclass(frozen=True, slots=True)
class Movement:
    """What one decision did to an account. about: the generation or decision whose amounts it moved."""

    sequence: int
    decision_id: str
    kind: str
    decided_at: str
    reason: str
    about: str | None
    dispute_id: str | None
    amount_micros: int
    facts: Mapping[str, Any]


@dataclass(slots=True)
class Movements:
    """One account's period."""

    opening_micros: int = 0
    credits: list[WorkCredit] = field(default_factory=list)
    adjustments: list[Movement] = field(default_factory=list)
    holds: list[Movement] = field(default_factory=list)
    payouts: list[Movement] = field(default_factory=list)

    @property
    def closing_micros(self) -> int:
        """Balance at the end of the period."""
        return self.opening_micros + sum(self.sums().values())

    def sums(self) -> dict[str, int]:
        """Micro-credits by section."""
        moved = {"adjustments": self.adjustments, "holds": self.holds, "payouts": self.payouts}
        return {
            "credits": sum(one.credit_micros for one in self.credits),
            **{name: sum(one.amount_micros for one in found) for name, found in moved.items()},
        }


def movements(
    connection: Connection, calendar: Calendar, period: Period, account: str | None = None
) -> dict[str, Movements]:
    """Each owner's period by account, or that of one account; every owner with a balance or a movement is there.

    Reads all entries up to the end of the period, once.
    """
    whose = _owners() if account is None else entries.c.account == account
    found: dict[str, Movements] = {} if account is None else {account: Movements()}
    before = _joined(entries.c.account, amount_sum).where(whose, calendar.upto(period.previous()))
    for name, amount in connection.execute(before.group_by(entries.c.account).having(amount_sum != 0)):
        found.setdefault(name, Movements()).opening_micros = amount
    _add_credits(connection, calendar.within(period) & whose, period, found)
    _add_decisions(connection, calendar.within(period) & whose, found)
    return dict(sorted(found.items()))


def _owners() -> ColumnElement[bool]:
    return (entries.c.account > OWNER_PREFIX) & (entries.c.account < _AFTER_OWNERS)


def _joined(*columns: Any) -> Select[Any]:
    return select(*columns).select_from(entries.join(postings, postings.c.sequence == entries.c.sequence))


def _add_credits(
    connection: Connection, condition: ColumnElement[bool], period: Period, found: dict[str, Movements]
) -> None:
    late = case((postings.c.generated_at < utc_text(period.start), entries.c.amount_micros), else_=0)
    query = (
        _joined(
            entries.c.account,
            entries.c.training_image_id,
            func.count(distinct(entries.c.sequence)),
            amount_sum,
            cast(func.sum(late), BigInteger),
        )
        .where(condition, postings.c.kind == ATTRIBUTION)
        .group_by(entries.c.account, entries.c.training_image_id)
    )
    for account, *fields in connection.execute(query):
        found.setdefault(account, Movements()).credits.append(WorkCredit(*fields))
    for one in found.values():
        one.credits.sort(key=lambda work: (-work.credit_micros, str(work.training_image_id)))


def _add_decisions(connection: Connection, condition: ColumnElement[bool], found: dict[str, Movements]) -> None:
    query = (
        _joined(entries.c.account, entries.c.sequence, amount_sum)
        .where(condition, postings.c.kind != ATTRIBUTION)
        .group_by(entries.c.account, entries.c.sequence)
        .having(amount_sum != 0)
        .order_by(entries.c.sequence)
    )
    rows = [(row[0], row[1], row[2]) for row in connection.execute(query)]
    described = _described(connection, sorted({sequence for _, sequence, _ in rows}))
    for account, sequence, amount in rows:
        movement = Movement(sequence=sequence, amount_micros=amount, **described[sequence])
        _section(found.setdefault(account, Movements()), movement.kind).append(movement)


def _section(of: Movements, kind: str) -> list[Movement]:
    if kind == PAYOUT:
        return of.payouts
    return of.holds if kind in HOLDS else of.adjustments


def _described(connection: Connection, sequences: Sequence[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for start in range(0, len(sequences), _POSTINGS_PER_QUERY):
        some = sequences[start : start + _POSTINGS_PER_QUERY]
        abouts = _abouts(connection, some)
        for posting in load(connection, postings_where(postings.c.sequence.in_(some))):
            decision = Decision.from_json(posting.evidence_json)
            found[posting.sequence] = {
                "decision_id": posting.header.generation_id,
                "kind": posting.header.kind,
                "decided_at": posting.header.generated_at,
                "reason": decision.reason,
                "about": abouts.get(posting.sequence),
                "dispute_id": decision.links.dispute_id,
                "facts": decision.facts,
            }
    return found


def _abouts(connection: Connection, sequences: Sequence[int]) -> dict[int, str]:
    query = (
        select(decisions.c.sequence, postings.c.generation_id)
        .join(postings, postings.c.sequence == decisions.c.about_sequence)
        .where(decisions.c.sequence.in_(sequences))
    )
    return {row.sequence: row.generation_id for row in connection.execute(query)}
