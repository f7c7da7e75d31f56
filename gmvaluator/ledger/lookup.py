"""Finding postings: one by what people call it, and lists of them, newest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ledger.reader import LedgerReader, load_postings, postings_where
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.schema import entries, postings
from gmvaluator.storage.schema import utc_text

MIN_PREFIX = 4
"""Fewest characters of a shortened id."""

SHOWN = 10
"""Maximum number of ids that a message about an ambiguous name lists."""

_FILE_ID = "sha256:"
"""Beginning of the ids that `gmvaluator attribute` makes of a file's hash; it may be left out of a shortened one."""

_SEQUENCE = re.compile(r"#?([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class PostingFilter:
    """Which postings to list; None for all. since, until: times of posting, the latter exclusive."""

    account: str | None = None
    model_version: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def list_postings(connection: Connection, chosen: PostingFilter, limit: int) -> list[dict[str, Any]]:
    """Return the headers of the newest postings that a filter lets through, newest first, as plain data."""
    columns = ("sequence", "kind", "generation_id", "generator_identity", "model_version", "policy")
    times = ("generated_at", "posted_at", "issued_micros")
    query = select(*(postings.c[name] for name in (*columns, *times))).where(*_conditions(chosen))
    rows = connection.execute(query.order_by(postings.c.sequence.desc()).limit(limit)).mappings()
    return [dict(row) for row in rows]


def _conditions(chosen: PostingFilter) -> list[Any]:
    conditions: list[Any] = []
    if chosen.account is not None:
        conditions.append(
            postings.c.sequence.in_(select(entries.c.sequence).where(entries.c.account == chosen.account))
        )
    if chosen.model_version is not None:
        conditions.append(postings.c.model_version == chosen.model_version)
    if chosen.since is not None:
        conditions.append(postings.c.posted_at >= utc_text(chosen.since))
    if chosen.until is not None:
        conditions.append(postings.c.posted_at < utc_text(chosen.until))
    return conditions


def find_posting(book: LedgerReader, text: str, identity: str | None = None) -> StoredPosting:
    """Return the posting that `text` names: its generation's id, its sequence (7 or #7), or an unambiguous beginning.

    An id as it stands comes before a sequence, and that before a shortened id. identity: the generator identity that
    posted it, where several used the id. Raises NotFound, or InvalidInput if several postings are meant.
    """
    try:
        return book.posting_of_generation(text, identity)
    except NotFound:
        sequence = sequence_of(book, text)
        sequences = [sequence] if sequence is not None else _by_prefix(book, text, identity)
    if len(sequences) == 1:
        with book.snapshot() as connection:
            (posting,) = load_postings(connection, postings_where(postings.c.sequence == sequences[0]))
        return posting
    raise NotFound(
        f"nothing was posted for {text[:100]!r}: give a generation's id, its first {MIN_PREFIX} characters or more, or "
        "a sequence number; `gmvaluator ledger list` shows them"
    )


def sequence_of(book: LedgerReader, text: str) -> int | None:
    """Return the sequence of a posting that `text` is the number of, or None."""
    match = _SEQUENCE.fullmatch(text)
    return int(match[1]) if match is not None and 1 <= int(match[1]) <= book.head().sequence else None


def _by_prefix(book: LedgerReader, text: str, identity: str | None) -> list[int]:
    """Return the sequence of the one posting whose id begins so, or nothing. Raises InvalidInput for several."""
    if len(text.removeprefix(_FILE_ID)) < MIN_PREFIX:
        return []
    rows = [row for prefix in (text, _FILE_ID + text) for row in _beginning_with(book, prefix, identity)]
    if len(rows) > 1:
        listed = ", ".join(f"{generation} (posting {sequence})" for sequence, generation in rows[:SHOWN])
        raise InvalidInput(f"several ids begin with {text[:100]!r}: {listed}; give more of it")
    return [sequence for sequence, _ in rows]


def _beginning_with(book: LedgerReader, prefix: str, identity: str | None) -> Sequence[tuple[int, str]]:
    query = select(postings.c.sequence, postings.c.generation_id)
    query = query.where(postings.c.generation_id.startswith(prefix, autoescape=True))
    if identity is not None:
        query = query.where(postings.c.generator_identity == identity)
    with book.snapshot() as connection:
        # SQLite compares without regard to case.
        rows = connection.execute(query.order_by(postings.c.sequence.desc()).limit(SHOWN + 1))
        return [(row[0], row[1]) for row in rows if row[1].startswith(prefix)]
