"""The state of the overview page, read from one snapshot of the ledger."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from dashboard.figures.cards import feed
from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import amount_text, percent
from dashboard.figures.history import KINDS, SERIES, History, Rate, chart, point_now, utc_now
from gmvaluator.ledger.page_queries import (
    count_attributions,
    count_owners,
    newest_attributions,
    newest_qualities,
    top_owners,
)
from gmvaluator.ledger.reader import read_totals
from gmvaluator.ledger.results import Balance, Totals

LEADERS = 10
"""Owners in the list of highest balances."""

CANDIDATES = 20
"""Owners whose balances the history keeps, so that one who rises into the chart has a past there."""

FEED = 6
"""Images in the feed."""

FEED_EVERY = timedelta(seconds=1)
"""Time between changes of the feed while more images are posted than it shows: cards cost the most to read."""

QUALITIES = 20
"""Images whose mean quality is shown."""


class OverviewReader:
    """A reader of the state of the overview. Not thread-safe.

    It caches what cannot change (cards and qualities of posted images, points of the past) and reads every amount.
    """

    def __init__(self, data: DataAccess) -> None:
        self._data = data
        self._history = History()
        self._cards: dict[int, dict[str, Any]] = {}
        self._qualities: dict[int, float] = {}
        self._rate = Rate()
        self._feed_read_at = datetime.min.replace(tzinfo=UTC)
        self._feed_head = 0

    def read(self) -> dict[str, Any]:
        """Return the current state as plain JSON. `sequence` is the newest posting in it."""
        now = utc_now()
        with self._data.ledger.snapshot() as connection:
            totals = read_totals(connection)
            leaders = top_owners(connection, CANDIDATES)
            rate = self._rate.images_per_minute(connection, totals.head.sequence, now)
            if self._feed_is_due(totals.head.sequence, now):
                self._read_qualities(connection)
                self._read_feed(connection)
            self._remember(connection, totals, leaders, now)
            images = count_attributions(connection, 0, totals.head.sequence)
            owners = count_owners(connection)
        return self._state(totals, leaders, now) | {
            "images": f"{images:,}",
            "owners": f"{owners:,}",
            "images_per_minute": f"{rate:,}",
            "mean_quality": self._mean_quality(),
            "feed": list(self._cards.values()),
        }

    def _state(self, totals: Totals, leaders: list[Balance], now: datetime) -> dict[str, Any]:
        names = self._data.names([leader.account for leader in leaders[:LEADERS]])
        top = [(leader.account, names[leader.account]) for leader in leaders[:SERIES]]
        highest = max((leader.balance_micros for leader in leaders), default=0)
        return {
            "sequence": totals.head.sequence,
            "hash": totals.head.hash,
            "at": now.isoformat(timespec="milliseconds"),
            "totals": amounts(totals),
            "shares": {kind: percent(micros, totals.issued_micros) for kind, micros in went_to(totals).items()},
            "reconciles": totals.reconciles,
            "leaders": [_leader(leader, names, highest) for leader in leaders[:LEADERS]],
            "chart": chart(self._history, top),
        }

    def _feed_is_due(self, head: int, now: datetime) -> bool:
        # A few new images are shown at once, many at intervals.
        few = 0 <= head - self._feed_head <= FEED
        if not few and timedelta(0) <= now - self._feed_read_at < FEED_EVERY:
            return False
        self._feed_read_at, self._feed_head = now, head
        return True

    def _mean_quality(self) -> str:
        return f"{sum(self._qualities.values()) / len(self._qualities):.3f}" if self._qualities else "–"

    def _read_qualities(self, connection: Connection) -> None:
        known = max(self._qualities, default=0)
        self._qualities |= dict(newest_qualities(connection, QUALITIES, known))
        newest = sorted(self._qualities, reverse=True)[:QUALITIES]
        self._qualities = {sequence: self._qualities[sequence] for sequence in newest}

    def _read_feed(self, connection: Connection) -> None:
        # Cards of posted images never change: only those of new images are read.
        known = max(self._cards, default=0)
        fresh = newest_attributions(connection, FEED, after=known)
        self._cards |= {card["sequence"]: card for card in feed(self._data, fresh)}
        newest = sorted(self._cards, reverse=True)[:FEED]
        self._cards = {sequence: self._cards[sequence] for sequence in newest}

    def _remember(self, connection: Connection, totals: Totals, leaders: list[Balance], now: datetime) -> None:
        accounts = {leader.account: leader.balance_micros for leader in leaders}
        if self._history.newest is None:
            self._history.fill(connection, point_now(totals, accounts, now))
        else:
            self._history.note(totals, accounts, now)


def went_to(totals: Totals) -> dict[str, int]:
    """Return micro-credits by kind of account; those paid out in money count as owners'."""
    by_kind = {kind: getattr(totals, f"{kind}_micros") for kind in KINDS}
    return {"owners": totals.owners_micros + totals.paid_micros, **by_kind}


def amounts(totals: Totals) -> dict[str, str]:
    """Return credits by kind of account, as text, since a browser's numbers could not hold them exactly."""
    micros = {name: value for name, value in asdict(totals).items() if name.endswith("_micros")}
    return {name.removesuffix("_micros"): amount_text(value) for name, value in micros.items()}


def _leader(balance: Balance, names: dict[str, str], highest: int) -> dict[str, Any]:
    return {
        "owner_id": str(balance.owner_id),
        "name": names[balance.account],
        "credits": amount_text(balance.balance_micros),
        "bar": round(100 * max(0, balance.balance_micros) / highest, 2) if highest > 0 else 0,
    }
