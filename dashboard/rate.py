"""Images a minute: by the sequences that the ledger had reached at times in the last minute."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

from sqlalchemy import Connection

from gmvaluator.ledger.page_queries import attributions_between, sequences_at

WINDOW = timedelta(minutes=1)
SEED_STEP = timedelta(seconds=2)
MAX_GAP = timedelta(seconds=5)
"""Without a reading for longer, the marks between are asked of the ledger again."""


class Rate:
    """Remembers which posting was the newest when. Not thread-safe."""

    def __init__(self) -> None:
        self._marks: deque[tuple[datetime, int]] = deque()

    def images_per_minute(self, connection: Connection, head: int, now: datetime) -> int:
        """Generations posted in the minute before `now`. head: the newest posting."""
        if not self._marks or not self._follows(head, now):
            self._seed(connection, head, now)
        self._marks.append((now, head))
        while len(self._marks) > 1 and self._marks[1][0] <= now - WINDOW:
            self._marks.popleft()
        return attributions_between(connection, self._marks[0][1], head)

    def _follows(self, head: int, now: datetime) -> bool:
        at, sequence = self._marks[-1]
        return timedelta(0) <= now - at <= MAX_GAP and sequence <= head

    def _seed(self, connection: Connection, head: int, now: datetime) -> None:
        """Searching the ledger by time takes some twenty questions: once, and not at every reading."""
        instants = [now - WINDOW + SEED_STEP * step for step in range(WINDOW // SEED_STEP)]
        self._marks = deque(zip(instants, sequences_at(connection, instants, 0, head), strict=True))
