"""Writers of the ledger: a batch of postings in one transaction, each in its own savepoint, each key only once.

`BatchWriter` checks postings, chains them and keeps the balances. `RowWriter` inserts rows on the driver's own cursor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection, Dialect, String, Table, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gmvaluator.errors import Conflict, InvalidInput, LedgerCorrupt
from gmvaluator.ledger.decision import DECIDER, HOLD, PAYOUT, NewDecision
from gmvaluator.ledger.idempotency import check_repeat
from gmvaluator.ledger.reader import load_postings, postings_where, read_balance
from gmvaluator.ledger.records import NewPosting, PostingHeader, StoredPosting
from gmvaluator.ledger.results import Outcome, Posted, Refused, Replayed
from gmvaluator.ledger.schema import (
    MAX_IDENTITY_CHARACTERS,
    balances,
    decisions,
    entries,
    evidence,
    head,
    postings,
)
from gmvaluator.storage.schema import upserting_insert, utc_text

MAX_BATCH = 1_000
"""Maximum number of postings in one batch."""

MAX_ENTRIES = 10_000
"""Maximum number of entries of one posting."""

MAX_AMOUNT_MICROS = 10**15
"""Maximum amount of one entry, a billion credits: small enough that no sum exceeds 64 bits."""

AnyPosting = NewPosting | NewDecision
"""A posting to write: of a generated image, or of a decision."""

Row = tuple[Any, ...]
"""Values in the order of a table's columns, as the driver accepts them."""

MAX_PARAMETERS = 990
"""Maximum number of values in one statement. The driver caches statements, and longer ones are no faster."""

_SUMS_STEP = 16
"""Numbers of rows in statements that update balances are multiples of this, so that few statements are cached."""


class NotPostable(LedgerCorrupt):
    """The database refused one posting that passed the checks here; its savepoint was rolled back."""


class BatchWriter:
    """A writer of one batch of postings on a connection that is in a transaction.

    The caller commits before it reports the outcomes, because nothing is durable before.
    """

    def __init__(self, connection: Connection, posted_at: datetime) -> None:
        self._connection = connection
        self._row_writer = RowWriter(connection)
        self._posted_at = utc_text(posted_at)
        # Locked before any key is looked up: on PostgreSQL this row lock excludes other writers until the commit.
        row = connection.execute(select(head.c.sequence, head.c.hash, head.c.issued_micros).with_for_update()).one()
        self._sequence, self._hash, self._issued_micros = row
        self._sums: Counter[str] = Counter()

    def post(self, batch: Sequence[AnyPosting]) -> list[Outcome]:
        """Post a batch and return one outcome for each posting, in order."""
        stored = self._stored_by_key([posting.generation_id for posting in batch])
        first = self._sequence
        outcomes = [self._post_one(posting, stored) for posting in batch]
        if self._sequence > first:
            self._update_head_and_balances()
        return outcomes

    def _stored_by_key(self, generation_ids: Sequence[str]) -> dict[tuple[str, str], StoredPosting]:
        query = postings_where(postings.c.generation_id.in_(generation_ids))
        return {posting.key: posting for posting in load_postings(self._connection, query)}

    def _post_one(self, posting: AnyPosting, stored: dict[tuple[str, str], StoredPosting]) -> Outcome:
        """Post one posting, unless its key is stored; adds it to `stored`, where later ones of the batch find it."""
        try:
            before = stored.get(posting.key)
            if before is not None:
                check_repeat(before, posting)
                return Replayed(before)
            _check(posting)
            self._check_funds(posting)
            made = stored[posting.key] = self._append(posting)
        except (InvalidInput, Conflict, NotPostable) as error:
            return Refused(error)
        return Posted(made)

    def _check_funds(self, posting: AnyPosting) -> None:
        """Raise Conflict if a hold or payout takes more than an account has."""
        if posting.kind not in (HOLD, PAYOUT):
            return
        # Decisions read balances under the lock of all writers; this guards the accounts a second time.
        for account, amount_micros in posting.sums.items():
            balance = self._balance(account)
            if amount_micros < 0 and balance + amount_micros < 0:
                raise Conflict(
                    f"{posting.generation_id} takes {-amount_micros:,} micro-credits of {account}, which has "
                    f"{balance:,}: run the command again"
                )

    def _balance(self, account: str) -> int:
        return read_balance(self._connection, account) + self._sums[account]

    def _append(self, posting: AnyPosting) -> StoredPosting:
        made = self._chained(posting)
        try:
            with self._row_writer.savepoint():
                self._insert(made, posting)
        except IntegrityError as error:
            raise NotPostable(
                f"generation {posting.generation_id} cannot be posted as {made.sequence} ({error.orig}); "
                "run `gmvaluator ledger verify`"
            ) from error
        self._sequence, self._hash = made.sequence, made.hash
        self._issued_micros += made.header.issued_micros
        for account, amount_micros in posting.sums.items():
            self._sums[account] += amount_micros
        return made

    def _chained(self, posting: AnyPosting) -> StoredPosting:
        facts = posting.header_facts
        header = PostingHeader(
            sequence=self._sequence + 1,
            kind=posting.kind,
            generator_identity=posting.generator_identity,
            generation_id=posting.generation_id,
            image_sha256=facts.image_sha256,
            model_version=facts.model_version,
            policy=facts.policy,
            profile_hash=facts.profile_hash,
            generated_at=utc_text(posting.generated_at),
            posted_at=self._posted_at,
            issued_micros=facts.issued_micros,
            entries_digest=posting.entries_digest,
            evidence_digest=posting.evidence_digest,
            previous_hash=self._hash,
        )
        return StoredPosting(header, header.chain_hash(), posting.entries, posting.evidence_json)

    def _insert(self, made: StoredPosting, posting: AnyPosting) -> None:
        sequence = made.sequence
        self._row_writer.insert(postings, [(*made.header.values(), made.hash)])
        self._row_writer.insert(entries, [(sequence, *line) for line in posting.lines])
        self._row_writer.insert(evidence, [(sequence, posting.evidence_body)])
        if isinstance(posting, NewDecision):
            links = posting.decision.links.as_dict()
            self._row_writer.insert(decisions, [(sequence, posting.kind, *links.values())])

    def _update_head_and_balances(self) -> None:
        values = {"sequence": self._sequence, "hash": self._hash, "issued_micros": self._issued_micros}
        self._connection.execute(update(head).values(values))
        self._row_writer.add_to_balances(sorted(self._sums.items()))


def _check(posting: AnyPosting) -> None:
    """Raise InvalidInput if a posting breaks a rule of the ledger, before anything is written."""
    where = f"generation {posting.generation_id}"
    amounts = [entry.amount_micros for entry in posting.entries]
    if not 1 <= len(posting.generator_identity) <= MAX_IDENTITY_CHARACTERS:
        raise InvalidInput(f"{where}: a generator identity has 1-{MAX_IDENTITY_CHARACTERS} characters")
    if isinstance(posting, NewPosting) and posting.generator_identity.startswith(DECIDER[0]):
        raise InvalidInput(f"{where}: a generator identity does not begin with {DECIDER[0]}, which the ledger keeps")
    if len(posting.entries) > MAX_ENTRIES:
        raise InvalidInput(f"{where}: {len(posting.entries)} entries are more than {MAX_ENTRIES}")
    if 0 in amounts or max(map(abs, amounts), default=0) > MAX_AMOUNT_MICROS:
        raise InvalidInput(f"{where}: an entry's amount is 1 to {MAX_AMOUNT_MICROS} either way; leave out zeros")
    if sum(amounts) != 0:
        raise InvalidInput(f"{where}: its entries do not sum to zero")
    try:
        _ = posting.evidence_json
    except ValueError as error:
        raise InvalidInput(f"{where}: its evidence holds a number that is not finite") from error


def now_utc() -> datetime:
    """Return the current time, UTC, for `posted_at`."""
    return datetime.now(UTC)


class RowWriter:
    """A writer of rows on a connection that is in a transaction, with few statements.

    SQLAlchemy builds the SQL of each kind of statement once, and the driver's cursor executes it: executing through
    SQLAlchemy costs more than SQLite itself does. On SQLite many rows in one statement also release the interpreter
    lock once instead of once for each row. On PostgreSQL the rows of one posting are sent in one message.
    """

    def __init__(self, connection: Connection) -> None:
        driver = connection.dialect.loaded_dbapi
        # PostgreSQL reports a value that is too long for its column as an error of data, not of integrity.
        self._refusals = (driver.IntegrityError, driver.DataError)
        self._cursor = connection.connection.cursor()
        self._on_sqlite = connection.dialect.name == "sqlite"
        self._pipeline = nullcontext if self._on_sqlite else connection.connection.driver_connection.pipeline  # type: ignore[union-attr]

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is written inside if the database refuses a row. Raises IntegrityError then.

        Other errors pass through without a rollback, because SQLite may have rolled back the whole transaction.
        """
        try:
            with self._pipeline():
                self._cursor.execute("SAVEPOINT posting")
                yield
                self._cursor.execute("RELEASE SAVEPOINT posting")
        except self._refusals as error:
            self._cursor.execute("ROLLBACK TO SAVEPOINT posting")
            self._cursor.execute("RELEASE SAVEPOINT posting")
            raise IntegrityError(None, None, error) from error

    def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows with a value for every column of `table`."""
        self._execute(table, rows, adding=False)

    def add_to_balances(self, sums: Sequence[Row]) -> None:
        """Add (account, micro-credits) pairs of different accounts to the balances; a new account begins at zero."""
        self._execute(balances, _padded(sums) if self._on_sqlite else sums, adding=True)

    def _execute(self, table: Table, rows: Sequence[Row], adding: bool) -> None:
        if not self._on_sqlite:
            if rows:
                self._cursor.execute(
                    _unnest_statement(table, adding), [list(column) for column in zip(*rows, strict=True)]
                )
            return
        rows_per_statement = MAX_PARAMETERS // len(table.columns)
        for start in range(0, len(rows), rows_per_statement):
            part = rows[start : start + rows_per_statement]
            self._cursor.execute(values_statement(table, adding, len(part)), list(chain.from_iterable(part)))


def _padded(sums: Sequence[Row]) -> list[Row]:
    """Return `sums` with zeros for the last account added, up to a multiple of `_SUMS_STEP` rows."""
    # The driver caches 128 statements, and a long one takes tens of kilobytes. With one statement for each number of
    # accounts the cache would grow to megabytes.
    return [*sums, *[(account, 0) for account, _ in sums[-1:]] * (-len(sums) % _SUMS_STEP)]


@lru_cache(maxsize=4 * MAX_PARAMETERS)
def values_statement(table: Table, adding: bool, rows: int) -> str:
    """Return SQLite's INSERT of `rows` rows, with a question mark for each value."""
    into, otherwise = _parts(table, adding, "sqlite")
    row = f"({', '.join('?' * len(table.columns))})"
    return f"{into} VALUES {', '.join([row] * rows)}{otherwise}"


@cache
def _unnest_statement(table: Table, adding: bool) -> str:
    """Return PostgreSQL's INSERT of any number of rows, with an array for each column."""
    into, otherwise = _parts(table, adding, "postgresql")
    arrays = ", ".join(f"%s::{_type(column)}[]" for column in table.columns)
    return f"{into} SELECT * FROM unnest({arrays}){otherwise}"  # noqa: S608 - our own names


def _parts(table: Table, adding: bool, engine: str) -> tuple[str, str]:
    """Return the SQL of an INSERT before and after its values. adding: add to balances that exist."""
    family = sqlite if engine == "sqlite" else postgresql
    dialect: Dialect = family.dialect(paramstyle="qmark")
    statement = upserting_insert(dialect, table)
    if adding:
        added = table.c.balance_micros + statement.excluded.balance_micros
        statement = statement.on_conflict_do_update(index_elements=["account"], set_={"balance_micros": added})
    into, _, values = str(statement.compile(dialect=dialect)).partition(" VALUES ")
    return into, values[values.index(")") + 1 :]


def _type(column: Column[Any]) -> str:
    if isinstance(column.type, String):
        return "text"
    return str(column.type.compile(postgresql.dialect()))  # type: ignore[no-untyped-call]
