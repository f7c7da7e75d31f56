"""From rows to postings: loading checks that what is stored adds up and is what was hashed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from gmvaluator.errors import LedgerCorrupt
from gmvaluator.ledger import chain
from gmvaluator.ledger.records import Entry, PostingHeader, StoredPosting
from gmvaluator.ledger.schema import entries, evidence, postings

HEADER_COLUMNS = tuple(PostingHeader.__dataclass_fields__)

_HEADERS_WITH_EVIDENCE = select(
    *(postings.c[name] for name in HEADER_COLUMNS), postings.c.hash, evidence.c.body
).select_from(postings.join(evidence, evidence.c.sequence == postings.c.sequence))


def postings_where(*conditions: Any) -> Select[Any]:
    """Query of the postings that meet `conditions`, for `load`."""
    return _HEADERS_WITH_EVIDENCE.where(*conditions)


def load(connection: Connection, query: Select[Any]) -> list[StoredPosting]:
    """Postings that `query` selects, in its order. Raises LedgerCorrupt if one does not add up."""
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
    for what in inconsistencies(posting):
        raise LedgerCorrupt(f"posting {posting.sequence}: {what}; run `gmvaluator ledger verify`")
    return posting


def inconsistencies(posting: StoredPosting) -> Iterable[str]:
    """What of a posting does not add up or is not what its hash covers, worst last; nothing if it is sound."""
    header = posting.header
    if sum(entry.amount_micros for entry in posting.entries) != 0:
        yield "its entries do not sum to zero"
    if chain.entries_digest(posting.entries) != header.entries_digest:
        yield "its entries are not those that were posted"
    if chain.evidence_digest(posting.evidence_json) != header.evidence_digest:
        yield "its evidence is not what was posted"
    if chain.header_hash(header) != posting.hash:
        yield "its header is not what was posted"
