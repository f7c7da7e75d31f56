"""History of balances for the chart, and the rate of images per minute; both read the ledger by sequence."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from gmvaluator.ledger.page_queries import count_attributions, posted_at, sequences_at, sums_between
from gmvaluator.ledger.results import Totals
from gmvaluator.valuation.weights import MICROS_PER_CREDIT

POINTS = 240
"""Maximum number of points that are kept."""

STEP_S = 5.0
"""Seconds between two points of the chart; until they have passed, a new reading replaces the newest point."""

BACKFILL_POINTS = 60
"""Points read from the ledger at the start."""

MAX_BACKFILL_POSTINGS = 20_000
"""Maximum number of postings, the newest, that are read at the start."""

SERIES = 5
"""Maximum number of owners with a band of their own in the chart; the others share one."""

LIVE_WINDOW = timedelta(minutes=15)
"""Time span of the chart."""

IDLE = timedelta(minutes=1)
"""Time without a posting after which the chart stops instead of drawing a flat line."""

KINDS = ("unattributed", "suspense", "held", "paid")
"""Kinds of accounts that belong to no owner."""

RATE_WINDOW = timedelta(minutes=1)
SEED_STEP = timedelta(seconds=2)
"""Time between the marks that are read from the ledger."""

MAX_GAP = timedelta(seconds=5)
"""Time without a reading after which the marks are read from the ledger again."""


@dataclass(frozen=True, slots=True)
class Point:
    """Balances, in micro-credits, as of posting `sequence`. accounts: of owners near the top at that time."""

    at: datetime
    sequence: int
    owners_micros: int
    kinds: Mapping[str, int]
    accounts: Mapping[str, int]


class History:
    """The newest points of the chart. Not thread-safe: one thread reads the ledger."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._moved_at = datetime.min.replace(tzinfo=UTC)

    @property
    def newest(self) -> Point | None:
        """The newest point, or None."""
        return self._points[-1] if self._points else None

    def note(self, totals: Totals, accounts: Mapping[str, int], now: datetime) -> None:
        """Add the current state as a point; it replaces the newest one if that is less than a step old."""
        newest = self.newest
        if newest is not None and newest.sequence == totals.head.sequence and now - self._moved_at > IDLE:
            return
        if newest is None or newest.sequence != totals.head.sequence:
            self._moved_at = now
        second_newest = self._points[-2].at if len(self._points) > 1 else None
        if newest is not None and second_newest is not None and (newest.at - second_newest).total_seconds() < STEP_S:
            self._points.pop()
        self._points.append(point_now(totals, accounts, now))

    def fill(self, connection: Connection, now_point: Point) -> None:
        """Add points from before the start, evenly spaced over the newest `MAX_BACKFILL_POSTINGS` at most."""
        self._points.extend(backfilled(connection, now_point))

    def series(self, top: Sequence[str]) -> list[list[float]]:
        """Return rows of time in ms, then credits of each of `top`, other owners, unattributed, suspense + held."""
        since = self._points[-1].at - LIVE_WINDOW if self._points else None
        recent = [point for point in self._points if since is None or point.at >= since]
        return [_row(point, top) for point in recent]


def point_now(totals: Totals, accounts: Mapping[str, int], now: datetime) -> Point:
    """Return the current state as a point."""
    kinds = {kind: getattr(totals, f"{kind}_micros") for kind in KINDS}
    return Point(now, totals.head.sequence, totals.owners_micros, kinds, dict(accounts))


def backfilled(connection: Connection, end: Point) -> list[Point]:
    """Return points from the oldest of the newest postings up to `end`, which is the last."""
    oldest = max(0, end.sequence - MAX_BACKFILL_POSTINGS)
    first, last = posted_at(connection, oldest + 1), posted_at(connection, end.sequence)
    if first is None or last is None:
        return [end]
    stop = end.at if end.at - last < IDLE else last
    start = max(first, stop - LIVE_WINDOW) if stop is end.at else first
    step = max((stop - start) / BACKFILL_POINTS, timedelta(milliseconds=50))
    times = [start + step * number for number in range(-1, BACKFILL_POINTS + 1)]
    sequences = [*sequences_at(connection, times, oldest, end.sequence), end.sequence]
    end = replace(end, at=stop)
    points, later = [end], end
    for number in range(len(times) - 1, -1, -1):
        later = _earlier(connection, later, sequences[number], times[number])
        points.append(later)
    return [point for point in reversed(points) if point.at <= end.at]


def _earlier(connection: Connection, later: Point, sequence: int, at: datetime) -> Point:
    """Return the balances at `sequence`: the later ones, less the amounts that the postings in between moved."""
    if sequence == later.sequence:
        return Point(at, sequence, later.owners_micros, later.kinds, later.accounts)
    moved = sums_between(connection, sequence, later.sequence, [*later.accounts, *KINDS, "issuance"])
    kinds = {kind: later.kinds[kind] - moved.get(kind, 0) for kind in KINDS}
    owners = later.owners_micros + moved.get("issuance", 0) + sum(moved.get(kind, 0) for kind in KINDS)
    accounts = {account: micros - moved.get(account, 0) for account, micros in later.accounts.items()}
    return Point(at, sequence, owners, kinds, accounts)


def _row(point: Point, top: Sequence[str]) -> list[float]:
    own = [point.accounts.get(account, 0) for account in top]
    suspended = point.kinds["suspense"] + point.kinds["held"]
    values = [*own, point.owners_micros - sum(own), point.kinds["unattributed"], suspended]
    return [round(point.at.timestamp() * 1000), *(round(micros / MICROS_PER_CREDIT, 6) for micros in values)]


def chart(history: History, top: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the chart as the page draws it. top: (account, name) of the owners with the highest balances."""
    shown = top[:SERIES]
    names = [*(name for _, name in shown), "Other owners", "Unattributed", "Suspense and held"]
    return {"series": names, "points": history.series([account for account, _ in shown])}


def utc_now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


class Rate:
    """The rate of images, from marks of the newest posting at times of the last minute. Not thread-safe."""

    def __init__(self) -> None:
        self._marks: deque[tuple[datetime, int]] = deque()

    def images_per_minute(self, connection: Connection, head: int, now: datetime) -> int:
        """Return the generations posted in the minute before `now`. head: the newest posting's sequence."""
        if not self._marks or not self._follows(head, now):
            self._seed(connection, head, now)
        self._marks.append((now, head))
        while len(self._marks) > 1 and self._marks[1][0] <= now - RATE_WINDOW:
            self._marks.popleft()
        return count_attributions(connection, self._marks[0][1], head)

    def _follows(self, head: int, now: datetime) -> bool:
        at, sequence = self._marks[-1]
        return timedelta(0) <= now - at <= MAX_GAP and sequence <= head

    def _seed(self, connection: Connection, head: int, now: datetime) -> None:
        # A search of the ledger by time takes some twenty queries, too many for every reading.
        instants = [now - RATE_WINDOW + SEED_STEP * step for step in range(RATE_WINDOW // SEED_STEP)]
        self._marks = deque(zip(instants, sequences_at(connection, instants, 0, head), strict=True))
