"""Periods: calendar months, UTC, and which postings belong to which.

A posting belongs to the month of its own time, unless that month was closed before it was posted: then to the first
month that was open. What a period holds therefore never changes once it is closed, and nothing falls between two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, and_, false, not_, select, true

from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.ledger.decision import CLOSE, Decision
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.storage.schema import utc_text

_PERIOD = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """One calendar month, UTC."""

    year: int
    month: int

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    @classmethod
    def parse(cls, text: str) -> Period:
        """`2026-11`. Raises InvalidInput."""
        match = _PERIOD.fullmatch(text)
        if match is None or not 2000 <= int(match[1]) <= 9998:
            raise InvalidInput(f"{text[:20]!r} is no period: give a month as YYYY-MM, such as 2026-11")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, instant: datetime) -> Period:
        """The month that an instant lies in."""
        moment = instant.astimezone(UTC)
        return cls(moment.year, moment.month)

    def next(self) -> Period:
        """The month after."""
        return Period(self.year + self.month // 12, self.month % 12 + 1)

    def previous(self) -> Period:
        """The month before."""
        return Period(self.year - (self.month == 1), self.month - 1 or 12)

    @property
    def start(self) -> datetime:
        """Its first instant."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        return self.next().start


@dataclass(frozen=True, slots=True)
class Calendar:
    """Closed periods and the newest posting that each took in, as of one snapshot."""

    closes: dict[Period, int]

    @property
    def first_closed(self) -> Period | None:
        """The earliest closed period; whatever lies before it belongs to it."""
        return min(self.closes, default=None)

    @property
    def last_closed(self) -> Period | None:
        """The newest closed period."""
        return max(self.closes, default=None)

    def closed(self, period: Period) -> bool:
        """True if nothing more goes into it."""
        return period in self.closes

    def check_exists(self, period: Period) -> None:
        """Raises PreconditionFailed for a month before the first closed one, which holds all that was before."""
        if self.first_closed is not None and period < self.first_closed:
            raise PreconditionFailed(
                f"the first period of this ledger is {self.first_closed}, which holds all that was before it"
            )

    def upto(self, period: Period) -> ColumnElement[bool]:
        """Condition on `postings`: those that belong to `period` or an earlier one."""
        if self.first_closed is not None and period < self.first_closed:
            return false()
        own_time = postings.c.generated_at < utc_text(period.end)
        in_time = postings.c.sequence <= self.closes[period] if period in self.closes else true()
        return and_(own_time, in_time)

    def within(self, period: Period) -> ColumnElement[bool]:
        """Condition on `postings`: those that belong to `period`."""
        return and_(self.upto(period), not_(self.upto(period.previous())))


def read_calendar(connection: Connection) -> Calendar:
    """The calendar as it is now."""
    closed = (closing.decision for closing in closings(connection))
    return Calendar({Period.parse(one.links.period or ""): one.facts["closed_through"] for one in closed})


@dataclass(frozen=True, slots=True)
class Closing:
    """A closed period: the posting that closed it, and what that says."""

    posting: StoredPosting
    decision: Decision


def closings(connection: Connection, period: Period | None = None) -> list[Closing]:
    """Closings in order, or only that of `period`."""
    sequences = select(decisions.c.sequence).where(decisions.c.kind == CLOSE)
    if period is not None:
        sequences = sequences.where(decisions.c.period == str(period))
    found = load_postings(connection, postings_where(postings.c.sequence.in_(sequences)).order_by(postings.c.sequence))
    return [Closing(one, Decision.from_json(one.evidence_json)) for one in found]
