"""Accounting periods: calendar months in UTC, and the conditions that assign postings to them.

A posting belongs to the month of its own time, or to the first open month if its own was closed before it was posted.
A closed period therefore never changes, and every posting belongs to exactly one period.
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
        """Parse a month such as `2026-11`. Raises InvalidInput."""
        match = _PERIOD.fullmatch(text)
        if match is None or not 2000 <= int(match[1]) <= 9998:
            raise InvalidInput(f"{text[:20]!r} is no period: give a month as YYYY-MM, such as 2026-11")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, instant: datetime) -> Period:
        """Return the month that contains an instant."""
        moment = instant.astimezone(UTC)
        return cls(moment.year, moment.month)

    def next(self) -> Period:
        """Return the following month."""
        return Period(self.year + self.month // 12, self.month % 12 + 1)

    def previous(self) -> Period:
        """Return the preceding month."""
        return Period(self.year - (self.month == 1), self.month - 1 or 12)

    @property
    def start(self) -> datetime:
        """First instant of the month."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """First instant after the month."""
        return self.next().start


@dataclass(frozen=True, slots=True)
class Calendar:
    """The closed periods as of one snapshot.

    closed_through: period to the sequence of the newest posting that existed when it closed; later postings belong to
    later periods.
    """

    closed_through: dict[Period, int]

    @property
    def first_closed(self) -> Period | None:
        """The earliest closed period, which also holds all postings of earlier months; None if none is closed."""
        return min(self.closed_through, default=None)

    @property
    def last_closed(self) -> Period | None:
        """The newest closed period; None if none is closed."""
        return max(self.closed_through, default=None)

    def closed(self, period: Period) -> bool:
        """Return whether a period is closed, so that no posting is added to it."""
        return period in self.closed_through

    def check_exists(self, period: Period) -> None:
        """Raise PreconditionFailed for a month before the first closed period, which holds all that was before it."""
        if self.first_closed is not None and period < self.first_closed:
            raise PreconditionFailed(
                f"the first period of this ledger is {self.first_closed}, which holds all that was before it"
            )

    def upto(self, period: Period) -> ColumnElement[bool]:
        """Return the condition on `postings` that selects `period` and all earlier ones."""
        if self.first_closed is not None and period < self.first_closed:
            return false()
        before_end = postings.c.generated_at < utc_text(period.end)
        # A posting made after the closing may be dated in the period, but belongs to a later one.
        before_closing = postings.c.sequence <= self.closed_through[period] if period in self.closed_through else true()
        return and_(before_end, before_closing)

    def within(self, period: Period) -> ColumnElement[bool]:
        """Return the condition on `postings` that selects `period`."""
        return and_(self.upto(period), not_(self.upto(period.previous())))


def read_calendar(connection: Connection) -> Calendar:
    """Read the closed periods, as of the connection's snapshot."""
    closed = (closing.decision for closing in closings(connection))
    return Calendar(
        {Period.parse(decision.links.period or ""): decision.facts["closed_through"] for decision in closed}
    )


@dataclass(frozen=True, slots=True)
class Closing:
    """The posting that closed a period, with its decision."""

    posting: StoredPosting
    decision: Decision


def closings(connection: Connection, period: Period | None = None) -> list[Closing]:
    """Return the closings in order, or only that of `period` (none if it is open)."""
    sequences = select(decisions.c.sequence).where(decisions.c.kind == CLOSE)
    if period is not None:
        sequences = sequences.where(decisions.c.period == str(period))
    closing_postings = postings_where(postings.c.sequence.in_(sequences)).order_by(postings.c.sequence)
    return [
        Closing(posting, Decision.from_json(posting.evidence_json))
        for posting in load_postings(connection, closing_postings)
    ]
