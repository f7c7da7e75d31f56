"""One owner's statement: plain values that every form of it is printed from, and nothing that changes by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ledger.periods.calendar import Calendar, Closing, Period, closings, read_calendar
from gmvaluator.ledger.periods.closing import payable_lines
from gmvaluator.ledger.periods.terms import Terms
from gmvaluator.ledger.records import owner_account, owner_of
from gmvaluator.ledger.statements.movements import Movement, Movements, WorkCredit, movements
from gmvaluator.ports import WorkCard

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger

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
