"""Read access to the ledger: postings, whose hashes are checked as they are loaded, the head, balances and totals.

Each method of `LedgerReader` reads one snapshot on a read-only connection and may be called from any thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Engine, Row, Select, cast, distinct, func, not_, select

from gmvaluator.accounts import HELD, ISSUANCE, PAID, SUSPENSE, UNATTRIBUTED
from gmvaluator.errors import InvalidInput, LedgerCorrupt, NotFound
from gmvaluator.ids import GenerationId
from gmvaluator.ledger import hash_chain
from gmvaluator.ledger.queries import is_owner
from gmvaluator.ledger.records import Entry, PostingHeader, StoredPosting
from gmvaluator.ledger.results import Balance, BalancePage, Head, Totals
from gmvaluator.ledger.schema import balances, entries, evidence, head, postings

HEADER_COLUMNS = tuple(PostingHeader.__dataclass_fields__)

_HEADERS_WITH_EVIDENCE = select(
    *(postings.c[name] for name in HEADER_COLUMNS), postings.c.hash, evidence.c.body
).select_from(postings.join(evidence, evidence.c.sequence == postings.c.sequence))


def postings_where(*conditions: Any) -> Select[Any]:
    """Return a query of the postings that meet `conditions`, for `load_postings`."""
    return _HEADERS_WITH_EVIDENCE.where(*conditions)


def load_postings(connection: Connection, query: Select[Any]) -> list[StoredPosting]:
    """Return the postings that `query` selects, in its order.

    Each is checked against its hashes. Raises LedgerCorrupt if one differs from what was posted.
    """
    rows = connection.execute(query).all()
    if not rows:
        return []
    lines = _entries_of(connection, [row[0] for row in rows])
    return [_posting(row, tuple(lines.get(row[0], ()))) for row in rows]


def _entries_of(connection: Connection, sequences: Sequence[int]) -> dict[int, list[Entry]]:
    query = (
        select(entries.c.sequence, entries.c.account, entries.c.training_image_id, entries.c.amount_micros)
        .where(entries.c.sequence.in_(sequences))
        .order_by(entries.c.sequence, entries.c.line)
    )
    lines: dict[int, list[Entry]] = {}
    for sequence, *fields in connection.execute(query):
        lines.setdefault(sequence, []).append(Entry(*fields))
    return lines


def _posting(row: Row[Any], lines: tuple[Entry, ...]) -> StoredPosting:
    *header, stored_hash, body = tuple(row)
    try:
        posting = StoredPosting(PostingHeader(*header), stored_hash, lines, zlib.decompress(body))
    except zlib.error as error:
        raise LedgerCorrupt(f"posting {header[0]}: its evidence is damaged; run `gmvaluator ledger verify`") from error
    for inconsistency in inconsistencies(posting):
        raise LedgerCorrupt(f"posting {posting.sequence}: {inconsistency}; run `gmvaluator ledger verify`")
    return posting


def inconsistencies(posting: StoredPosting) -> Iterable[str]:
    """Yield a description of each part of a posting that does not add up or does not match its hash."""
    header = posting.header
    if sum(entry.amount_micros for entry in posting.entries) != 0:
        yield "its entries do not sum to zero"
    if hash_chain.entries_digest(posting.entries) != header.entries_digest:
        yield "its entries are not those that were posted"
    if hash_chain.evidence_digest(posting.evidence_json) != header.evidence_digest:
        yield "its evidence is not what was posted"
    if header.chain_hash() != posting.hash:
        yield "its header is not what was posted"


MAX_PAGE = 1_000
"""Maximum number of rows of one page."""


class LedgerReader:
    """The reading side of a ledger."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a read-only connection that sees the ledger as it is now, for queries of other modules."""
        with self._engine.connect() as connection:
            yield connection

    def find(self, generator_identity: str, generation_id: GenerationId) -> StoredPosting | None:
        """Return the posting of a key; None if nothing was posted under it."""
        query = postings_where(
            postings.c.generation_id == generation_id,
            postings.c.generator_identity == generator_identity,
        )
        with self._engine.connect() as connection:
            return next(iter(load_postings(connection, query)), None)

    def posting_of_generation(self, generation_id: str, generator_identity: str | None = None) -> StoredPosting:
        """Return the posting of a generation; the identity is needed only if several identities used the id.

        Raises NotFound, or InvalidInput if several did and none is given.
        """
        conditions = [postings.c.generation_id == generation_id]
        if generator_identity is not None:
            conditions.append(postings.c.generator_identity == generator_identity)
        with self._engine.connect() as connection:
            matches = load_postings(connection, postings_where(*conditions).limit(MAX_PAGE))
        if not matches:
            raise NotFound(f"nothing was posted for generation {generation_id}: check the id, or attribute it first")
        if len(matches) > 1:
            identities = ", ".join(sorted(posting.header.generator_identity for posting in matches)[:10])
            raise InvalidInput(f"generation {generation_id} was posted by several identities; say which: {identities}")
        return matches[0]

    def postings_after(self, sequence: int, limit: int = 100) -> list[StoredPosting]:
        """Return the first `limit` (1-1,000) postings after `sequence`, in order and without gaps."""
        query = postings_where(postings.c.sequence > sequence).order_by(postings.c.sequence).limit(_page(limit))
        with self._engine.connect() as connection:
            return load_postings(connection, query)

    def every_posting(self) -> Iterator[StoredPosting]:
        """Yield all postings in order, including those that are posted during the iteration."""
        page = self.postings_after(0, MAX_PAGE)
        while page:
            yield from page
            page = self.postings_after(page[-1].sequence, MAX_PAGE)

    def head(self) -> Head:
        """Return the newest posting of the chain."""
        with self._engine.connect() as connection:
            return read_head(connection)

    def totals(self) -> Totals:
        """Return the balances by kind of account, from the stored balances."""
        with self._engine.connect() as connection:
            return read_totals(connection)

    def balances(self, after: str = "", limit: int = 100) -> BalancePage:
        """Return up to `limit` (1-1,000) balances of accounts except issuance, with names after `after`, by name."""
        return self._balance_page(limit, balances.c.account > after, balances.c.account != ISSUANCE)

    def owner_balances(self, after: str = "", limit: int = 100) -> BalancePage:
        """Return up to `limit` (1-1,000) balances of owners, with account names after `after`, by name."""
        return self._balance_page(limit, balances.c.account > after, is_owner(balances.c.account))

    def balance(self, account: str) -> BalancePage:
        """Return a page with the balance of `account` alone; an empty one if the account never had an entry."""
        return self._balance_page(1, balances.c.account == account)

    def count_works_paid(self, accounts: Sequence[str]) -> dict[str, int]:
        """Return how many different works each account was ever paid for.

        Reads all entries, which takes seconds in a large ledger.
        """
        # Counted on demand: a stored count would cost the writer an index look-up for every entry.
        query = (
            select(entries.c.account, func.count(distinct(entries.c.training_image_id)).label("works"))
            .where(entries.c.account.in_(accounts))
            .group_by(entries.c.account)
        )
        with self._engine.connect() as connection:
            return {row.account: row.works for row in connection.execute(query)}

    def _balance_page(self, limit: int, *conditions: ColumnElement[bool]) -> BalancePage:
        query = (
            select(balances.c.account, balances.c.balance_micros)
            .where(*conditions)
            .order_by(balances.c.account)
            .limit(_page(limit))
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
            newest = read_head(connection)
        return BalancePage(tuple(map(Balance._make, rows)), newest.sequence)


def read_head(connection: Connection) -> Head:
    """Return the newest posting of the chain. Raises LedgerCorrupt if the head row is missing."""
    row = connection.execute(select(head.c.sequence, head.c.hash)).one_or_none()
    if row is None:
        raise LedgerCorrupt("the ledger's head row is gone: restore the ledger from a backup")
    return Head(row.sequence, row.hash)


def _issued_by_headers(connection: Connection) -> int:
    issued: int = connection.execute(select(head.c.issued_micros)).scalar_one()
    return issued


def read_totals(connection: Connection) -> Totals:
    """Return the balances by kind of account, as of the connection's snapshot."""
    newest, issued_by_headers = read_head(connection), _issued_by_headers(connection)
    sums = _sums_by_kind(connection)
    balance = {kind: sums.pop(kind, 0) for kind in ("owners", UNATTRIBUTED, SUSPENSE, HELD, PAID)}
    issued = -sums.pop(ISSUANCE, 0)
    # An account of any other name does not exist in a sound ledger.
    reconciles = issued == issued_by_headers == sum(balance.values()) and not sums
    return Totals(
        issued_micros=issued,
        owners_micros=balance["owners"],
        unattributed_micros=balance[UNATTRIBUTED],
        suspense_micros=balance[SUSPENSE],
        held_micros=balance[HELD],
        paid_micros=balance[PAID],
        reconciles=reconciles,
        postings=newest.sequence,
        head=newest,
    )


def _sums_by_kind(connection: Connection) -> dict[str, int]:
    # The database adds up the owners: there may be many of them, and five other accounts.
    owners = select(cast(func.coalesce(func.sum(balances.c.balance_micros), 0), BigInteger)).where(
        is_owner(balances.c.account)
    )
    others = select(balances.c.account, balances.c.balance_micros).where(not_(is_owner(balances.c.account)))
    sums: dict[str, int] = {"owners": connection.execute(owners).scalar_one()}
    return sums | {row.account: row.balance_micros for row in connection.execute(others)}


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"a page of {limit} rows is refused: ask for 1-{MAX_PAGE}")
    return limit


def read_balance(connection: Connection, account: str) -> int:
    """Return the balance of an account in micro-credits; 0 if it never had an entry."""
    query = select(balances.c.balance_micros).where(balances.c.account == account)
    balance: int | None = connection.execute(query).scalar()
    return balance or 0
