"""Queries for the dashboard's pages: balances, newest postings, earnings, and the nearest generations of a work.

Each takes a connection, so that several can share one snapshot. Most read only the balances, the newest postings, or
the entries of a range of sequences that the caller bounds. Earnings of an account or a work read all entries once,
because entries are indexed by sequence alone: a second index would cost the writer more than everything else it does.
Pages repeat them only when the ledger has grown.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, distinct, func, select

from gmvaluator.errors import LedgerCorrupt
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.decision import PAYOUT
from gmvaluator.ledger.queries import amount_sum, is_owner, select_with_postings, sums_by_account
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.results import Balance
from gmvaluator.ledger.schema import balances, decisions, entries, evidence, postings
from gmvaluator.storage.schema import from_utc_text, utc_text
from gmvaluator.valuation.weights import MILLION

MAX_READ = 1_000
"""Maximum number of generations of each kind, best paid and newest, whose evidence `nearest_generations` reads."""

_BODIES_PER_QUERY = 250

# The quality in canonical JSON. A match inside a text is impossible, because its quotes would be escaped there.
# Parsing the whole evidence takes ten times as long.
_QUALITY = re.compile(rb'"quality_millionths":(\d+)')


def top_owners(connection: Connection, limit: int) -> list[Balance]:
    """Return the `limit` owners with the highest balances, highest first, equal ones by account."""
    query = select(balances.c.account, balances.c.balance_micros).where(is_owner(balances.c.account))
    query = query.order_by(balances.c.balance_micros.desc(), balances.c.account).limit(limit)
    return [Balance(*row) for row in connection.execute(query)]


def count_owners(connection: Connection) -> int:
    """Return the number of owners that ever had an entry."""
    query = select(func.count()).select_from(balances).where(is_owner(balances.c.account))
    count: int = connection.execute(query).scalar_one()
    return count


def balances_of(connection: Connection, accounts: Collection[str]) -> dict[str, int]:
    """Return the balances of accounts in micro-credits; 0 for an account that never had an entry."""
    query = select(balances.c.account, balances.c.balance_micros).where(balances.c.account.in_(accounts))
    return dict.fromkeys(accounts, 0) | {row.account: row.balance_micros for row in connection.execute(query)}


def posting_at(connection: Connection, sequence: int) -> StoredPosting | None:
    """Return the posting of a sequence; None if there is none."""
    return next(iter(load_postings(connection, postings_where(postings.c.sequence == sequence))), None)


def newest_attributions(connection: Connection, limit: int, after: int = 0) -> list[StoredPosting]:
    """Return the newest postings of generations after sequence `after`, newest first."""
    query = postings_where(postings.c.kind == ATTRIBUTION, postings.c.sequence > after)
    return load_postings(connection, query.order_by(postings.c.sequence.desc()).limit(limit))


def newest_qualities(connection: Connection, limit: int, after: int = 0) -> list[tuple[int, float]]:
    """Return (sequence, quality in [0, 1]) of the newest generations after `after`, newest first.

    The evidence is not checked against its hash. Raises LedgerCorrupt if it holds no quality.
    """
    query = (
        select(postings.c.sequence, evidence.c.body)
        .join(evidence, evidence.c.sequence == postings.c.sequence)
        .where(postings.c.kind == ATTRIBUTION, postings.c.sequence > after)
        .order_by(postings.c.sequence.desc())
        .limit(limit)
    )
    return [(row.sequence, _quality(row.body)) for row in connection.execute(query)]


def _quality(body: bytes) -> float:
    match = _QUALITY.search(zlib.decompress(body))
    if match is None:
        raise LedgerCorrupt("evidence without a quality: run `gmvaluator ledger verify`")
    return int(match[1]) / MILLION


def count_attributions(connection: Connection, after: int, upto: int) -> int:
    """Return the number of generations posted after sequence `after`, up to and including `upto`."""
    # Sequences have no gaps, and decisions are few: counting those reads far less than counting generations.
    between = (decisions.c.sequence > after, decisions.c.sequence <= upto)
    query = select(func.count()).select_from(decisions).where(*between)
    decision_count: int = connection.execute(query).scalar_one()
    return upto - after - decision_count


def sums_between(connection: Connection, after: int, upto: int, accounts: Collection[str]) -> dict[str, int]:
    """Return what accounts gained or lost by the postings after `after`, up to and including `upto`.

    Reads all entries of those postings. Accounts whose sum is zero are left out.
    """
    return sums_by_account(
        connection, entries.c.sequence > after, entries.c.sequence <= upto, entries.c.account.in_(accounts)
    )


def posted_at(connection: Connection, sequence: int) -> datetime | None:
    """Return when a posting was made; None if there is none of this sequence."""
    instant = connection.execute(select(postings.c.posted_at).where(postings.c.sequence == sequence)).scalar()
    return None if instant is None else from_utc_text(instant)


def sequences_at(connection: Connection, instants: Sequence[datetime], low: int, high: int) -> list[int]:
    """Return for each instant the newest sequence of `low`-`high` that was posted by then.

    It is `low` if all were posted later.
    """
    # Sequences are in the order of posting, so this is a binary search, for all instants at once: each round reads one
    # row for each instant that is still open.
    texts = [utc_text(instant) for instant in instants]
    bounds = [(low, high)] * len(texts)
    while any(below < above for below, above in bounds):
        middles = [(below + above + 1) // 2 for below, above in bounds]
        query = select(postings.c.sequence, postings.c.posted_at).where(postings.c.sequence.in_(set(middles)))
        times = {row.sequence: row.posted_at for row in connection.execute(query)}
        for number, (below, above) in enumerate(bounds):
            if below < above:
                middle = middles[number]
                bounds[number] = (middle, above) if times[middle] <= texts[number] else (below, middle - 1)
    return [below for below, _ in bounds]


@dataclass(frozen=True, slots=True)
class WorkEarnings:
    """The credits of an account, or of all accounts, for one work.

    generations: number of postings that concern the work, decisions included.
    """

    training_image_id: TrainingImageId
    credit_micros: int
    generations: int


@dataclass(frozen=True, slots=True)
class PaidGeneration:
    """One generation that paid an account or a work, and how much."""

    sequence: int
    generation_id: str
    generated_at: str
    credit_micros: int


@dataclass(frozen=True, slots=True)
class Earnings:
    """The credits of an account or a work, without payouts in money.

    by_day: day, UTC, to micro-credits, by the time of the generation or decision. paid_generations: some of the
    generations that paid; generation_count: the number of all that did.
    """

    by_day: dict[str, int]
    works: list[WorkEarnings]
    paid_generations: list[PaidGeneration]
    generation_count: int


def account_earnings(connection: Connection, account: str, max_works: int, max_generations: int) -> Earnings:
    """Return what an account was credited, less what decisions took back.

    Includes its `max_works` works that earned most and its `max_generations` newest generations.
    """
    newest_first = postings.c.sequence.desc()
    return _earnings(connection, entries.c.account == account, max_works, max_generations, newest_first)


def work_earnings(connection: Connection, work: TrainingImageId, max_generations: int) -> Earnings:
    """Return what was credited for a work to all accounts, with the `max_generations` that paid it most."""
    return _earnings(connection, entries.c.training_image_id == work, 1, max_generations, amount_sum.desc())


def accounts_of_work(connection: Connection, work: TrainingImageId) -> dict[str, int]:
    """Return who holds the credits of a work now: account to micro-credits, by account."""
    return sums_by_account(connection, entries.c.training_image_id == work)


def _earnings(
    connection: Connection,
    condition: ColumnElement[bool],
    max_works: int,
    max_generations: int,
    order: ColumnElement[Any],
) -> Earnings:
    day = func.substr(postings.c.generated_at, 1, 10)
    by_day = (
        select_with_postings(day, amount_sum).where(condition, postings.c.kind != PAYOUT).group_by(day).order_by(day)
    )
    paid = condition & (postings.c.kind == ATTRIBUTION)
    columns = postings.c.sequence, postings.c.generation_id, postings.c.generated_at
    generations = (
        select_with_postings(*columns, amount_sum)
        .where(paid)
        .group_by(*columns)
        .order_by(order, postings.c.sequence.desc())
        .limit(max_generations)
    )
    count = select_with_postings(func.count(distinct(postings.c.sequence))).where(paid)
    return Earnings(
        {row[0]: row[1] for row in connection.execute(by_day)},
        _best_works(connection, condition, max_works),
        [PaidGeneration(*row) for row in connection.execute(generations)],
        connection.execute(count).scalar_one(),
    )


def _best_works(connection: Connection, condition: ColumnElement[bool], limit: int) -> list[WorkEarnings]:
    query = (
        select(entries.c.training_image_id, amount_sum, func.count(distinct(entries.c.sequence)))
        .where(condition, entries.c.training_image_id.is_not(None))
        .group_by(entries.c.training_image_id)
        .order_by(amount_sum.desc(), entries.c.training_image_id)
        .limit(limit)
    )
    return [WorkEarnings(*row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class NearGeneration:
    """One generation that has a work among its contributors. distance_millionths: lower is nearer.

    credit_micros: what it credited for the work; 0 if the work was listed and not paid.
    """

    sequence: int
    generation_id: str
    generated_at: str
    image_sha256: str
    distance_millionths: int
    credit_micros: int


@dataclass(frozen=True, slots=True)
class NearestGenerations:
    """Generations in the order of distance, equal ones newest first. complete: False if some were not read."""

    generations: list[NearGeneration]
    complete: bool


def nearest_generations(
    connection: Connection, work: TrainingImageId, limit: int, max_read: int = MAX_READ
) -> NearestGenerations:
    """Return the `limit` generations that came nearest to a work, by the distances in their evidence.

    Reads the entries once and the evidence, which is compressed and not indexed by work, of 2 `max_read` generations:
    those that paid the work most, and the newest of all, among which a work is found that was listed and not paid (a
    near-duplicate of an earlier one, for example). The evidence is not checked against its hash.
    """
    best_paid, newest = _best_paid(connection, work, max_read + 1), _newest(connection, max_read + 1)
    sequences = sorted({*best_paid[:max_read], *newest[:max_read]})
    generations = list(_generations_with(connection, work, sequences))
    generations.sort(key=lambda generation: (generation.distance_millionths, -generation.sequence))
    # Either list alone is complete: all that paid, or all that exist. The former may lack some that did not pay.
    complete = len(best_paid) <= max_read or len(newest) <= max_read
    return NearestGenerations(generations[:limit], complete)


def _best_paid(connection: Connection, work: TrainingImageId, limit: int) -> list[int]:
    query = (
        select_with_postings(entries.c.sequence)
        .where(entries.c.training_image_id == work, postings.c.kind == ATTRIBUTION)
        .group_by(entries.c.sequence)
        .order_by(amount_sum.desc(), entries.c.sequence.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _newest(connection: Connection, limit: int) -> list[int]:
    query = select(postings.c.sequence).where(postings.c.kind == ATTRIBUTION)
    return list(connection.execute(query.order_by(postings.c.sequence.desc()).limit(limit)).scalars())


def _generations_with(
    connection: Connection, work: TrainingImageId, sequences: Sequence[int]
) -> Iterator[NearGeneration]:
    name = str(work)
    for start in range(0, len(sequences), _BODIES_PER_QUERY):
        for row in _evidence(connection, sequences[start : start + _BODIES_PER_QUERY]):
            text = zlib.decompress(row.body)
            # Most evidence does not name the work, and searching the text is a hundred times as fast as parsing it.
            if name.encode() in text:
                yield from _contributions_of(name, row, json.loads(text)["contributions"])


def _evidence(connection: Connection, sequences: Sequence[int]) -> Iterable[Row[Any]]:
    columns = (postings.c[name] for name in ("sequence", "generation_id", "generated_at", "image_sha256"))
    query = select(*columns, evidence.c.body).join(evidence, evidence.c.sequence == postings.c.sequence)
    return connection.execute(query.where(postings.c.sequence.in_(sequences)))


def _contributions_of(name: str, row: Row[Any], contributions: list[dict[str, Any]]) -> Iterator[NearGeneration]:
    for contribution in contributions:
        if contribution["training_image_id"] == name:
            header = row.sequence, row.generation_id, row.generated_at, row.image_sha256
            yield NearGeneration(*header, contribution["distance_millionths"], contribution["credit_micros"])
