"""What a period did to accounts: credits by work, every decision with its id and reason, and payouts.

One owner's statement: plain values that every form of it is printed from, and nothing that changes by itself.

Naming an owner on the command line.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import BigInteger, ColumnElement, Connection, case, cast, distinct, func, select

from gmvaluator.accounts import owner_account, owner_of
from gmvaluator.errors import InvalidInput
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ledger.calendar import Calendar, Closing, Period, closings, read_calendar
from gmvaluator.ledger.decision import HOLD, PAYOUT, SETTLEMENT, Decision
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.queries import amount_sum, entries_and_postings, is_owner, select_with_postings, sums_by_account
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.ports import WorkCard
from gmvaluator.storage.schema import utc_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


_POSTINGS_PER_QUERY = 500

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
    whose = is_owner(entries.c.account) if account is None else entries.c.account == account
    found: dict[str, Movements] = {} if account is None else {account: Movements()}
    before = sums_by_account(connection, whose, calendar.upto(period.previous()), source=entries_and_postings)
    for name, amount in before.items():
        found.setdefault(name, Movements()).opening_micros = amount
    _add_credits(connection, calendar.within(period) & whose, period, found)
    _add_decisions(connection, calendar.within(period) & whose, found)
    return dict(sorted(found.items()))


def _add_credits(
    connection: Connection, condition: ColumnElement[bool], period: Period, found: dict[str, Movements]
) -> None:
    late = case((postings.c.generated_at < utc_text(period.start), entries.c.amount_micros), else_=0)
    query = (
        select_with_postings(
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
        select_with_postings(entries.c.account, entries.c.sequence, amount_sum)
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
        for posting in load_postings(connection, postings_where(postings.c.sequence.in_(some))):
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


_NAMES_PER_QUERY = 5_000


class Names(Protocol):
    """Names of people and works; the catalogue."""

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]: ...

    def display_names(self, owner_ids: Collection[OwnerId]) -> dict[OwnerId, str]: ...


@dataclass(frozen=True, slots=True)
class Statement:
    """One owner's period. A period that is open yet has no terms: its statement is a draft."""

    owner_id: OwnerId
    display_name: str
    period: Period
    movements: Movements
    terms: Terms | None
    payable_micros: int
    payable_minor: int
    titles: Mapping[TrainingImageId, tuple[str, str]]

    @property
    def draft(self) -> bool:
        """True while the period is open."""
        return self.terms is None

    @property
    def carry_over_micros(self) -> int:
        """What stays on the account: all of it if the balance is below the threshold, or is a debt."""
        return self.movements.closing_micros - self.payable_micros

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the same bytes each time it is exported."""
        found = self.movements
        sums = found.sums()
        return {
            "statement": f"{self.period}/{self.owner_id}",
            "status": "draft" if self.draft else "closed",
            "period": str(self.period),
            "owner_id": str(self.owner_id),
            "account": owner_account(self.owner_id),
            "display_name": self.display_name,
            "opening_micros": found.opening_micros,
            **{f"{section}_micros": amount for section, amount in sums.items()},
            "closing_micros": found.closing_micros,
            "threshold_micros": self.terms.threshold_micros if self.terms else None,
            "payable_micros": self.payable_micros,
            "carry_over_micros": self.carry_over_micros,
            "payable_minor": self.payable_minor,
            "payable": self.terms.money_text(self.payable_minor) if self.terms else None,
            "terms": self.terms.as_dict() if self.terms else None,
            "credits": [self._work(one) for one in found.credits],
            "adjustments": [_movement(one) for one in found.adjustments],
            "holds": [_movement(one) for one in found.holds],
            "payouts": [_payout(one) for one in found.payouts],
        }

    def _work(self, one: WorkCredit) -> dict[str, Any]:
        key, title = self.titles.get(one.training_image_id, ("", ""))
        return {
            "training_image_id": str(one.training_image_id),
            "key": key,
            "title": title,
            "generations": one.generations,
            "credit_micros": one.credit_micros,
            "late_micros": one.late_micros,
        }


def statements(
    book: Ledger, period: Period, names: Names | None, owner_id: OwnerId | None = None
) -> Iterator[Statement]:
    """Statements of every owner with a balance or a movement, by account; or that of one owner, whatever it has.

    Raises PreconditionFailed for a month before the ledger's first closed one.
    """
    account = None if owner_id is None else owner_account(owner_id)
    with book.snapshot() as connection:
        calendar: Calendar = read_calendar(connection)
        calendar.check_exists(period)
        closing = next(iter(closings(connection, period)), None)
        found = movements(connection, calendar, period, account)
    payable = {name: (micros, minor) for name, micros, minor in payable_lines(closing)} if closing else {}
    owners = [one for name in found if (one := owner_of(name)) is not None]
    known = _display_names(owners, names)
    for one in owners:
        name = owner_account(one)
        micros, minor = payable.get(name, (0, 0))
        titles = _titles([work.training_image_id for work in found[name].credits], period, names)
        yield Statement(one, known[one], period, found[name], _terms(closing), micros, minor, titles)


def _terms(closing: Closing | None) -> Terms | None:
    return None if closing is None else Terms.from_dict(closing.decision.facts["terms"])


def _display_names(owners: Sequence[OwnerId], names: Names | None) -> dict[OwnerId, str]:
    if names is None:
        return {one: owner_account(one) for one in owners}
    known: dict[OwnerId, str] = {}
    for start in range(0, len(owners), _NAMES_PER_QUERY):
        known |= names.display_names(owners[start : start + _NAMES_PER_QUERY])
    return known


def _titles(
    works: Sequence[TrainingImageId], period: Period, names: Names | None
) -> dict[TrainingImageId, tuple[str, str]]:
    cards: dict[TrainingImageId, WorkCard] = {}
    for start in range(0, len(works) if names is not None else 0, _NAMES_PER_QUERY):
        assert names is not None
        cards |= names.works(works[start : start + _NAMES_PER_QUERY], period.start)
    return {work: (card.key, card.title) for work, card in cards.items()}


def _movement(one: Movement) -> dict[str, Any]:
    return {
        "id": one.decision_id,
        "kind": one.kind,
        "decided_at": one.decided_at,
        "about": one.about,
        "dispute_id": one.dispute_id,
        "reason": one.reason,
        "amount_micros": one.amount_micros,
    }


def _payout(one: Movement) -> dict[str, Any]:
    money = {name: one.facts[name] for name in ("currency", "minor_digits", "amount_minor")}
    return {**_movement(one), **money}


def owner_argument(text: str) -> OwnerId:
    """An owner's UUID, or its account `owner:<uuid>`. Raises InvalidInput."""
    try:
        return OwnerId(uuid.UUID(text.removeprefix("owner:")))
    except ValueError:
        raise InvalidInput(
            f"{text[:60]!r} is no owner: give the UUID, which `gmvaluator ledger totals --json` lists"
        ) from None
