"""Royalty statements: what a period credited to an owner by work, every decision that moved credits, and the payouts.

The statement of a closed period is the same bytes whenever it is exported: it contains nothing that changes by itself,
such as the time of printing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, case, cast, distinct, func, select

from gmvaluator.accounts import owner_account, owner_of
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ledger.calendar import Calendar, Period, closings, read_calendar
from gmvaluator.ledger.decision import HOLD, PAYOUT, SETTLEMENT, Decision
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.payouts.references import newest_references
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.queries import amount_sum, entries_and_postings, is_owner, select_with_postings, sums_by_account
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.ports import WorkCard
from gmvaluator.storage.schema import utc_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


_Item = TypeVar("_Item")

_POSTINGS_PER_QUERY = 500

_NAMES_PER_QUERY = 5_000
"""Owners or works in one query to the catalogue."""

HOLDS = (HOLD, SETTLEMENT)
"""Kinds of decisions that a statement lists as holds; payouts have their own list, all others are adjustments."""


@dataclass(frozen=True, slots=True)
class WorkCredit:
    """Credits for one work. late_micros: the part from generations that were made in an earlier period."""

    training_image_id: TrainingImageId
    generations: int
    credit_micros: int
    late_micros: int


@dataclass(frozen=True, slots=True)
class Movement:
    """The amount that one decision moved on an account.

    about: id of the posting whose amounts it moved. reference: of a payout, such as the bank's.
    """

    sequence: int
    decision_id: str
    kind: str
    decided_at: str
    reason: str
    about: str | None
    dispute_id: str | None
    amount_micros: int
    facts: Mapping[str, Any]
    reference: str | None = None


@dataclass(slots=True)
class Movements:
    """All changes of one account in one period."""

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
        """Return the micro-credits of each section."""
        sections = {"adjustments": self.adjustments, "holds": self.holds, "payouts": self.payouts}
        return {
            "credits": sum(work.credit_micros for work in self.credits),
            **{name: sum(movement.amount_micros for movement in moved) for name, moved in sections.items()},
        }


def read_movements(
    connection: Connection, calendar: Calendar, period: Period, account: str | None = None
) -> dict[str, Movements]:
    """Return the movements of every owner with a balance or a movement, by account, or only those of `account`.

    Reads all entries up to the end of the period, once.
    """
    accounts = is_owner(entries.c.account) if account is None else entries.c.account == account
    by_account: dict[str, Movements] = {} if account is None else {account: Movements()}
    opening = sums_by_account(connection, accounts, calendar.upto(period.previous()), source=entries_and_postings)
    for name, amount in opening.items():
        by_account.setdefault(name, Movements()).opening_micros = amount
    _add_credits(connection, calendar.within(period) & accounts, period, by_account)
    _add_decisions(connection, calendar.within(period) & accounts, calendar.upto(period), by_account)
    return dict(sorted(by_account.items()))


def _add_credits(
    connection: Connection, condition: ColumnElement[bool], period: Period, by_account: dict[str, Movements]
) -> None:
    # A generation posted after its own month was closed is credited in the open month, and shown as late.
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
        by_account.setdefault(account, Movements()).credits.append(WorkCredit(*fields))
    for movements in by_account.values():
        movements.credits.sort(key=lambda work: (-work.credit_micros, str(work.training_image_id)))


def _add_decisions(
    connection: Connection, condition: ColumnElement[bool], upto: ColumnElement[bool], by_account: dict[str, Movements]
) -> None:
    query = (
        select_with_postings(entries.c.account, entries.c.sequence, amount_sum)
        .where(condition, postings.c.kind != ATTRIBUTION)
        .group_by(entries.c.account, entries.c.sequence)
        .having(amount_sum != 0)
        .order_by(entries.c.sequence)
    )
    rows = [(row[0], row[1], row[2]) for row in connection.execute(query)]
    # A payout batch is thousands of decisions: their evidence is loaded by pages of sequences, not one by one.
    described = _describe_decisions(connection, sorted({sequence for _, sequence, _ in rows}))
    payouts = [sequence for sequence, decision in described.items() if decision["kind"] == PAYOUT]
    # Only references of the period count, so that the statement of a closed one does not change.
    references = newest_references(connection, payouts, upto)
    for account, sequence, amount in rows:
        movement = Movement(
            sequence=sequence, amount_micros=amount, **described[sequence], reference=references.get(sequence)
        )
        _section(by_account.setdefault(account, Movements()), movement.kind).append(movement)


def _section(movements: Movements, kind: str) -> list[Movement]:
    if kind == PAYOUT:
        return movements.payouts
    return movements.holds if kind in HOLDS else movements.adjustments


def _describe_decisions(connection: Connection, sequences: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return, by sequence, the fields of a `Movement` that do not depend on the account."""
    described: dict[int, dict[str, Any]] = {}
    for batch in _batches(sequences, _POSTINGS_PER_QUERY):
        abouts = _read_abouts(connection, batch)
        for posting in load_postings(connection, postings_where(postings.c.sequence.in_(batch))):
            decision = Decision.from_json(posting.evidence_json)
            described[posting.sequence] = {
                "decision_id": posting.header.generation_id,
                "kind": posting.header.kind,
                "decided_at": posting.header.generated_at,
                "reason": decision.reason,
                "about": abouts.get(posting.sequence),
                "dispute_id": decision.links.dispute_id,
                "facts": decision.facts,
            }
    return described


def _read_abouts(connection: Connection, sequences: Sequence[int]) -> dict[int, str]:
    """Return the generation id of the posting that each decision is about, by the decision's sequence."""
    query = (
        select(decisions.c.sequence, postings.c.generation_id)
        .join(postings, postings.c.sequence == decisions.c.about_sequence)
        .where(decisions.c.sequence.in_(sequences))
    )
    return {row.sequence: row.generation_id for row in connection.execute(query)}


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Names(Protocol):
    """Names of owners and titles of works; the catalogue implements it."""

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]: ...

    def display_names(self, owner_ids: Collection[OwnerId]) -> dict[OwnerId, str]: ...


@dataclass(frozen=True, slots=True)
class Statement:
    """One owner's statement for one period.

    terms: None while the period is open, which makes the statement a draft. titles: (key, title) by work.
    """

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
        """Whether the period is still open, so that the figures may change."""
        return self.terms is None

    @property
    def carry_over_micros(self) -> int:
        """Balance that stays on the account: all of it if it is below the threshold or negative."""
        return self.movements.closing_micros - self.payable_micros

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict, in a fixed order."""
        movements = self.movements
        return {
            "statement": f"{self.period}/{self.owner_id}",
            "status": "draft" if self.draft else "closed",
            "period": str(self.period),
            "owner_id": str(self.owner_id),
            "account": owner_account(self.owner_id),
            "display_name": self.display_name,
            "opening_micros": movements.opening_micros,
            **{f"{section}_micros": amount for section, amount in movements.sums().items()},
            "closing_micros": movements.closing_micros,
            "threshold_micros": self.terms.threshold_micros if self.terms else None,
            "payable_micros": self.payable_micros,
            "carry_over_micros": self.carry_over_micros,
            "payable_minor": self.payable_minor,
            "payable": self.terms.money_text(self.payable_minor) if self.terms else None,
            "terms": self.terms.as_dict() if self.terms else None,
            "credits": [self._plain_credit(credit) for credit in movements.credits],
            "adjustments": [_plain_movement(movement) for movement in movements.adjustments],
            "holds": [_plain_movement(movement) for movement in movements.holds],
            "payouts": [_plain_payout(movement) for movement in movements.payouts],
        }

    def _plain_credit(self, credit: WorkCredit) -> dict[str, Any]:
        key, title = self.titles.get(credit.training_image_id, ("", ""))
        return {
            "training_image_id": str(credit.training_image_id),
            "key": key,
            "title": title,
            "generations": credit.generations,
            "credit_micros": credit.credit_micros,
            "late_micros": credit.late_micros,
        }


def _plain_movement(movement: Movement) -> dict[str, Any]:
    return {
        "id": movement.decision_id,
        "kind": movement.kind,
        "decided_at": movement.decided_at,
        "about": movement.about,
        "dispute_id": movement.dispute_id,
        "reason": movement.reason,
        "amount_micros": movement.amount_micros,
    }


def _plain_payout(movement: Movement) -> dict[str, Any]:
    money = {name: movement.facts[name] for name in ("currency", "minor_digits", "amount_minor")}
    # Left out if there is none: statements that were handed out before there were references keep their bytes.
    reference = {} if movement.reference is None else {"reference": movement.reference}
    return {**_plain_movement(movement), **money, **reference}


def statements(
    book: Ledger, period: Period, names: Names | None, owner_id: OwnerId | None = None
) -> Iterator[Statement]:
    """Yield the statements of all owners with a balance or a movement, by account, or only that of `owner_id`.

    names: None if there is no catalogue; owners then appear by their accounts. Raises PreconditionFailed for a month
    before the ledger's first closed period.
    """
    account = None if owner_id is None else owner_account(owner_id)
    with book.snapshot() as connection:
        calendar = read_calendar(connection)
        calendar.check_exists(period)
        closing = next(iter(closings(connection, period)), None)
        by_account = read_movements(connection, calendar, period, account)
    terms = None if closing is None else Terms.from_dict(closing.decision.facts["terms"])
    payable = {name: (micros, minor) for name, micros, minor in payable_lines(closing)} if closing else {}
    owners = [owner for name in by_account if (owner := owner_of(name)) is not None]
    display_names = _display_names(owners, names)
    for owner in owners:
        movements = by_account[owner_account(owner)]
        micros, minor = payable.get(owner_account(owner), (0, 0))
        titles = _titles([credit.training_image_id for credit in movements.credits], period, names)
        yield Statement(owner, display_names[owner], period, movements, terms, micros, minor, titles)


def _display_names(owners: Sequence[OwnerId], names: Names | None) -> dict[OwnerId, str]:
    if names is None:
        return {owner: owner_account(owner) for owner in owners}
    display_names: dict[OwnerId, str] = {}
    for batch in _batches(owners, _NAMES_PER_QUERY):
        display_names |= names.display_names(batch)
    return display_names


def _titles(
    works: Sequence[TrainingImageId], period: Period, names: Names | None
) -> dict[TrainingImageId, tuple[str, str]]:
    """Return the (key, title) of each work."""
    if names is None:
        return {}
    cards: dict[TrainingImageId, WorkCard] = {}
    for batch in _batches(works, _NAMES_PER_QUERY):
        cards |= names.works(batch, period.start)
    return {work: (card.key, card.title) for work, card in cards.items()}
