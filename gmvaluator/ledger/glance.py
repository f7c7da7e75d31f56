"""What a page shows of the ledger at one instant: small questions that stay small however long the ledger grows.

Each takes a connection, so that several of them see one snapshot. None reads more than the balances, the newest
postings, or the entries of a range of sequences that the caller bounds.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, func, select

from gmvaluator.database.utc import from_utc_text, utc_text
from gmvaluator.errors import LedgerCorrupt
from gmvaluator.ledger.answers import Balance
from gmvaluator.ledger.corrections.state import amount_sum
from gmvaluator.ledger.reader import owners_only
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import balances, decisions, entries, evidence, postings
from gmvaluator.valuation import MILLION

_QUALITY = re.compile(rb'"quality_millionths":(\d+)')
"""In canonical JSON; within a text the quotes would be escaped. Reading all of the evidence takes ten times as long."""


def top_owners(connection: Connection, limit: int) -> list[Balance]:
    """The `limit` owners with the highest balances, highest first; equal ones by account."""
    query = select(balances.c.account, balances.c.balance_micros).where(owners_only())
    query = query.order_by(balances.c.balance_micros.desc(), balances.c.account).limit(limit)
    return [Balance(*row) for row in connection.execute(query)]


def count_owners(connection: Connection) -> int:
    """Owners that ever had an entry."""
    found: int = connection.execute(select(func.count()).select_from(balances).where(owners_only())).scalar_one()
    return found


def balances_of(connection: Connection, accounts: Collection[str]) -> dict[str, int]:
    """Balances of accounts; 0 for one that never had an entry."""
    query = select(balances.c.account, balances.c.balance_micros).where(balances.c.account.in_(accounts))
    return dict.fromkeys(accounts, 0) | {row.account: row.balance_micros for row in connection.execute(query)}


def newest_attributions(connection: Connection, limit: int, after: int = 0) -> list[StoredPosting]:
    """The newest postings above `after` that generations caused, newest first."""
    query = postings_where(postings.c.kind == ATTRIBUTION, postings.c.sequence > after)
    return load(connection, query.order_by(postings.c.sequence.desc()).limit(limit))


def newest_qualities(connection: Connection, limit: int, after: int = 0) -> list[tuple[int, float]]:
    """(sequence, quality in [0, 1]) of the newest generations above `after`, newest first. Reads evidence unchecked."""
    query = (
        select(postings.c.sequence, evidence.c.body)
        .join(evidence, evidence.c.sequence == postings.c.sequence)
        .where(postings.c.kind == ATTRIBUTION, postings.c.sequence > after)
        .order_by(postings.c.sequence.desc())
        .limit(limit)
    )
    return [(row.sequence, _quality(row.body)) for row in connection.execute(query)]


def attributions_between(connection: Connection, after: int, upto: int) -> int:
    """Generations posted above `after` and up to `upto`: sequences have no gaps, and decisions are few."""
    between = (decisions.c.sequence > after, decisions.c.sequence <= upto)
    found: int = connection.execute(select(func.count()).select_from(decisions).where(*between)).scalar_one()
    return upto - after - found


def sums_between(connection: Connection, after: int, upto: int, accounts: Collection[str]) -> dict[str, int]:
    """What accounts gained or lost by the postings above `after` and up to `upto`; reads all entries of those."""
    query = (
        select(entries.c.account, amount_sum)
        .where(entries.c.sequence > after, entries.c.sequence <= upto, entries.c.account.in_(accounts))
        .group_by(entries.c.account)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def posted_at(connection: Connection, sequence: int) -> datetime | None:
    """When a posting was made; None if there is none of this sequence."""
    found = connection.execute(select(postings.c.posted_at).where(postings.c.sequence == sequence)).scalar()
    return None if found is None else from_utc_text(found)


def sequences_at(connection: Connection, instants: Sequence[datetime], low: int, high: int) -> list[int]:
    """For each instant the newest sequence of `low`-`high` posted by then; `low` if all were posted later.

    Sequences are in the order of posting, so this is a search by halves, for all instants at once.
    """
    wanted = [utc_text(instant) for instant in instants]
    bounds = [(low, high)] * len(wanted)
    while any(below < above for below, above in bounds):
        middles = [(below + above + 1) // 2 for below, above in bounds]
        query = select(postings.c.sequence, postings.c.posted_at).where(postings.c.sequence.in_(set(middles)))
        times = {row.sequence: row.posted_at for row in connection.execute(query)}
        for number, (below, above) in enumerate(bounds):
            if below < above:
                middle = middles[number]
                bounds[number] = (middle, above) if times[middle] <= wanted[number] else (below, middle - 1)
    return [below for below, _ in bounds]


def _quality(body: bytes) -> float:
    found = _QUALITY.search(zlib.decompress(body))
    if found is None:
        raise LedgerCorrupt("evidence without a quality: run `gmvaluator ledger verify`")
    return int(found[1]) / MILLION
