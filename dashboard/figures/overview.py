"""The overview's state: everything on the page, of one snapshot of the ledger."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from dashboard.figures.cards import feed
from dashboard.figures.data import Sources
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
FEED_EVERY = timedelta(seconds=1)
"""Where more images come than the feed shows, its cards change this often: nobody reads faster, and they cost most."""
CANDIDATES = 20
"""Owners whose balances the chart remembers, so that one who rises into it has a past."""
FEED = 6
QUALITIES = 20
"""Images that mean quality is of."""


class OverviewReader:
    """Reads the overview from the ledger. Not thread-safe: one thread at a time.

    It keeps what cannot change - cards and qualities of posted images, points of the past - and reads every amount.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._history = History()
        self._cards: dict[int, dict[str, Any]] = {}
        self._qualities: dict[int, float] = {}
        self._rate = Rate()
        self._looked_at = datetime.min.replace(tzinfo=UTC)
        self._looked_upto = 0

    def read(self) -> dict[str, Any]:
        """The state of now, as plain JSON. `sequence` is the newest posting in it."""
        now = utc_now()
        with self._sources.ledger.snapshot() as connection:
            totals = read_totals(connection)
            leaders = top_owners(connection, CANDIDATES)
            rate = self._rate.images_per_minute(connection, totals.head.sequence, now)
            if self._look_at_images(totals.head.sequence, now):
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
        names = self._sources.names([one.account for one in leaders[:LEADERS]])
        top = [(one.account, names[one.account]) for one in leaders[:SERIES]]
        highest = max((one.balance_micros for one in leaders), default=0)
        return {
            "sequence": totals.head.sequence,
            "hash": totals.head.hash,
            "at": now.isoformat(timespec="milliseconds"),
            "totals": amounts(totals),
            "shares": {kind: percent(micros, totals.issued_micros) for kind, micros in went_to(totals).items()},
            "reconciles": totals.reconciles,
            "leaders": [_leader(one, names, highest) for one in leaders[:LEADERS]],
            "chart": chart(self._history, top),
        }

    def _look_at_images(self, head: int, now: datetime) -> bool:
        few = 0 <= head - self._looked_upto <= FEED
        if not few and timedelta(0) <= now - self._looked_at < FEED_EVERY:
            return False
        self._looked_at, self._looked_upto = now, head
        return True

    def _mean_quality(self) -> str:
        return f"{sum(self._qualities.values()) / len(self._qualities):.3f}" if self._qualities else "–"

    def _read_qualities(self, connection: Connection) -> None:
        known = max(self._qualities, default=0)
        self._qualities |= dict(newest_qualities(connection, QUALITIES, known))
        newest = sorted(self._qualities, reverse=True)[:QUALITIES]
        self._qualities = {sequence: self._qualities[sequence] for sequence in newest}

    def _read_feed(self, connection: Connection) -> None:
        known = max(self._cards, default=0)
        fresh = newest_attributions(connection, FEED, after=known)
        self._cards |= {card["sequence"]: card for card in feed(self._sources, fresh)}
        newest = sorted(self._cards, reverse=True)[:FEED]
        self._cards = {sequence: self._cards[sequence] for sequence in newest}

    def _remember(self, connection: Connection, totals: Totals, leaders: list[Balance], now: datetime) -> None:
        accounts = {one.account: one.balance_micros for one in leaders}
        if self._history.newest is None:
            self._history.fill(connection, point_now(totals, accounts, now))
        else:
            self._history.note(totals, accounts, now)


def went_to(totals: Totals) -> dict[str, int]:
    """Kind of account to micro-credits; what was paid out in money went to owners."""
    by_kind = {kind: getattr(totals, f"{kind}_micros") for kind in KINDS}
    return {"owners": totals.owners_micros + totals.paid_micros, **by_kind}


def amounts(totals: Totals) -> dict[str, str]:
    """Kind of account to credits, as text: exact, whatever a browser's numbers can hold."""
    found = {name: value for name, value in asdict(totals).items() if name.endswith("_micros")}
    return {name.removesuffix("_micros"): amount_text(value) for name, value in found.items()}


def _leader(one: Balance, names: dict[str, str], highest: int) -> dict[str, Any]:
    return {
        "owner_id": str(one.owner_id),
        "name": names[one.account],
        "credits": amount_text(one.balance_micros),
        "bar": round(100 * max(0, one.balance_micros) / highest, 2) if highest > 0 else 0,
    }
