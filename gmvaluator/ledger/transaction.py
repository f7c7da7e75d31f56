"""A writing transaction of the ledger, in which a decision reads its facts and posts what follows from them.

The transaction holds the lock of all writers: `BEGIN IMMEDIATE` on SQLite, the schema's advisory lock on PostgreSQL.
Nothing that a decision has read can therefore move before its postings are committed. Of two decisions at the same
moment the second sees what the first left.

Searches that read many entries may run in a snapshot before, so that generations do not wait for them, as long as they
only tell *where to look*. What a decision is made from is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.results import Refused
from gmvaluator.ledger.writer import MAX_BATCH, BatchWriter


class LedgerTransaction:
    """A transaction that decisions are made in.

    connection: for reading; it sees what `post` has posted. posted: what `post` has returned, in order.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.posted: list[StoredPosting] = []

    def post(self, new: Sequence[NewDecision]) -> list[StoredPosting]:
        """Post decisions and return the stored ones, also those that were posted before.

        They are durable once the transaction has ended. Raises the error of the first decision that is refused, which
        ends the transaction: then nothing of it is posted.
        """
        stored: list[StoredPosting] = []
        for start in range(0, len(new), MAX_BATCH):
            batch = new[start : start + MAX_BATCH]
            for outcome in BatchWriter(self.connection, datetime.now(UTC)).post(batch):
                if isinstance(outcome, Refused):
                    raise outcome.error
                stored.append(outcome.posting)
        self.posted += stored
        return stored
