"""The ledger as programs use it: opening, posting in transactions, and verification."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from gmvaluator.auth.signing import Signed
from gmvaluator.errors import (
    GmvaluatorError,
    InvalidInput,
    LedgerCorrupt,
    LedgerFailed,
    Unavailable,
)
from gmvaluator.ledger.beginning import check_beginning, record_beginning
from gmvaluator.ledger.checkpoints import checkpoint_problems
from gmvaluator.ledger.reader import LedgerReader, read_head
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.results import Head, Outcome, Verification
from gmvaluator.ledger.schema import REVISION
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.ledger.verification import decision_problems, verify
from gmvaluator.ledger.writer import MAX_BATCH, AnyPosting, BatchWriter, now_utc
from gmvaluator.storage.database import Database, DataLocation, as_location, location_in

Result = TypeVar("Result")

FILE_NAME = "ledger.sqlite"


def ledger_file(data_dir: Path) -> Path:
    """Return the path of the ledger's file in a data folder."""
    return data_dir / FILE_NAME


def open_ledger(place: Path | DataLocation, write: bool = False, *, create: bool = True, new: bool = False) -> Ledger:
    """Open the ledger at a location or in a data folder; a writer creates or upgrades it first.

    create: a writer begins a ledger where there never was one. new: it begins another where the last one is gone.

    Raises AlreadyHeld if another process writes its file, MissingData if there is no ledger and none may be begun,
    PreconditionFailed if its schema is of another version or no new one can be begun, Failure if the file is damaged,
    and Unavailable if PostgreSQL is unavailable.
    """
    data = as_location(place)
    location = location_in(data, FILE_NAME)
    check_beginning(data.folder, location, write and create, new)
    ledger = Ledger(Database(location, REVISION, write))
    if write:
        ledger.record_beginning(data.folder)
    return ledger


def has_ledger(place: DataLocation) -> bool:
    """Return whether there is a ledger; False if there never was one. Raises MissingData if it is gone."""
    return check_beginning(place.folder, location_in(place, FILE_NAME), create=True, new=False)


class Ledger(LedgerReader):
    """An open ledger. Reads are safe from any thread; writes are serialised.

    Use it as a context manager, or `close` it.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.reader)
        self._database = database
        self._write_lock = threading.Lock()
        self._failure: str | None = None
        self._rehearsed: list[StoredPosting] | None = None

    def post(self, batch: Sequence[AnyPosting]) -> list[Outcome]:
        """Post a batch in one transaction, with a savepoint for each posting; returns once it is durable.

        Returns one outcome for each posting, in order: Posted, Replayed (its key was posted before, with the same
        image and generator; also within the batch) or Refused (the others are not affected).

        Raises LedgerFailed after any error. The batch must not be reported as posted then, the ledger accepts nothing
        more, and the process should end. The next start shows what is durable, and sending the same ids again is safe.
        Raises InvalidInput, without harm, if the batch is over 1,000.
        """
        if len(batch) > MAX_BATCH:
            raise InvalidInput(f"{len(batch)} postings are too many for one batch: send {MAX_BATCH} at most")
        with self._writing() as connection:
            return BatchWriter(connection, now_utc()).post(batch)

    def decide(self, decision: Callable[[LedgerTransaction], Result]) -> Result:
        """Make a decision in one writing transaction and return its result, once its postings are durable.

        decision: reads its facts and posts what follows from them in the transaction, which is undone if it raises. It
        is called once and must not call this ledger. Raises what it raises, and LedgerFailed as `post` does.
        """
        with self._writing() as connection:
            if self._rehearsed is None:
                return decision(LedgerTransaction(connection))
            before = read_head(connection).sequence
            with connection.begin_nested() as undone:
                transaction = LedgerTransaction(connection)
                result = decision(transaction)
                undone.rollback()
            self._rehearsed += [posting for posting in transaction.posted if posting.sequence > before]
            return result

    @property
    def rehearsing(self) -> bool:
        """Whether decisions are undone now; see `rehearsal`."""
        return self._rehearsed is not None

    @contextmanager
    def rehearsal(self) -> Iterator[list[StoredPosting]]:
        """Undo the decisions that are made in this block; yield the list of the postings that they would have added.

        They are made as they would be outside, in the writing transaction, so that what is shown is what would be
        posted if nothing else were posted before.
        """
        self._rehearsed = []
        try:
            yield self._rehearsed
        finally:
            self._rehearsed = None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Open the one writing transaction, and commit it at the end of the block."""
        with self._write_lock:
            if self._failure is not None:
                raise LedgerFailed(f"the ledger stopped after an error ({self._failure}): restart to recover")
            try:
                with self._database.writer.begin() as connection:
                    yield connection
                # What was committed to a file that is gone is lost, and must not be acknowledged.
                self._database.check_in_place()
            except Exception as error:
                if isinstance(error, GmvaluatorError) and not isinstance(error, Unavailable):
                    # The decision was refused and undone; the database itself did not fail.
                    raise
                # The commit may or may not have happened. A failed fsync may have dropped the pages that it failed on,
                # and a second one would succeed without them. So nothing is retried on this connection: a restart reads
                # what is durable, and sending the same ids again is safe.
                self._failure = str(error.orig) if isinstance(error, DBAPIError) else str(error)
                raise LedgerFailed(
                    f"the ledger {self._database.name} could not be written ({self._failure}): restart"
                ) from error

    def record_beginning(self, folder: Path) -> None:
        """Record in the data folder that there is a ledger; see `gmvaluator.ledger.beginning`."""
        record_beginning(folder, self._database.writer)

    def check_in_place(self) -> None:
        """Raise Unavailable if the ledger's file was removed, renamed or replaced since it was opened."""
        self._database.check_in_place()

    def verify(
        self, expected: Head | None = None, public_key: str | None = None, kept: Sequence[Signed] = ()
    ) -> Verification:
        """Check every row, the references of decisions, and the checkpoints.

        See `gmvaluator.ledger.verification.verify` for `expected`, and `checkpoint_problems` for the others. Raises
        LedgerCorrupt if the database cannot read its file.
        """
        try:
            result = verify(self._database.reader, expected)
            if not result.ok:
                return result
            # Decisions and checkpoints refer to postings, so they are checked only where the postings are sound.
            with self.snapshot() as connection:
                problems = chain(decision_problems(connection), checkpoint_problems(connection, public_key, kept))
                return replace(result, first=next(problems, None))
        except DBAPIError as error:
            raise LedgerCorrupt(f"the ledger cannot be read ({error.orig}): restore it from a backup") from error

    def close(self) -> None:
        """Close all connections and release the writer's lock."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def decision_time() -> datetime:
    """Return the current time, UTC, for `decided_at` of decisions."""
    return datetime.now(UTC)
