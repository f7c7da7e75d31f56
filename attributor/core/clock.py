"""The attributor's clock, judged by the ledger: times of images decide whose rights and which period apply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from gmvaluator.errors import InvalidInput, PreconditionFailed, Unavailable
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.schema import postings

CLOCK_SKEW = timedelta(minutes=5)
"""Time that another clock may be ahead of this one."""

WRONG_CLOCK = timedelta(days=1)
"""Time ahead that is the caller's error alone, if the ledger agrees with this clock as closely."""

READ_AGAIN_S = 1.0
"""Time for which the ledger's newest time is not read again, seconds."""


def newest_time(ledger: LedgerReader) -> datetime | None:
    """Return when the newest posting was made; None for an empty ledger."""
    query = select(postings.c.posted_at).order_by(postings.c.sequence.desc()).limit(1)
    with ledger.snapshot() as connection:
        text: str | None = connection.execute(query).scalar()
    return None if text is None else datetime.fromisoformat(text)


class LedgerClock:
    """A clock that refuses to be behind the ledger. Thread-safe; blocks while it reads the ledger."""

    def __init__(
        self, newest: Callable[[], datetime | None], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """newest: returns when the newest posting was made, None if there is none or the clock is to be trusted."""
        self._newest = newest
        self._now = now
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._read: datetime | None = None

    def checked_now(self) -> datetime:
        """Return the current time, UTC. Raises Unavailable if the ledger shows that this clock is behind."""
        now, newest = self._now(), self._newest_read()
        if newest is not None and newest > now + CLOCK_SKEW:
            raise Unavailable(
                f"this attributor's clock says {_text(now)}, and the ledger's newest posting was made at "
                f"{_text(newest)}: set the clock by NTP; send the image again, with the same id"
            )
        return now

    def check(self, moment: datetime) -> None:
        """Check that a time given by a caller has come.

        Raises Unavailable like `checked_now`; InvalidInput if `moment` is over a day ahead and the ledger shows that
        this clock is right; and else PreconditionFailed if it is ahead: the image must not be lost to a wrong clock.
        """
        now = self.checked_now()
        if moment <= now + CLOCK_SKEW:
            return
        newest = self._newest_read()
        if moment > now + WRONG_CLOCK and newest is not None and newest > now - WRONG_CLOCK:
            raise InvalidInput(f"generated_at {_text(moment)} is refused: give a time from 2014 to now, UTC")
        raise PreconditionFailed(
            f"generated_at {_text(moment)} is ahead of this clock, {_text(now)}: set both by NTP, or send the image "
            "again then"
        )

    def _newest_read(self) -> datetime | None:
        with self._lock:
            if time.monotonic() - self._read_at > READ_AGAIN_S:
                self._read, self._read_at = self._newest(), time.monotonic()
            return self._read


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
