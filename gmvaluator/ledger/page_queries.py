"""What one account, or one work, earned: sums and the generations behind them, for a page about it.

Entries are indexed by sequence alone, as a second index would cost the writer more than all else (docs/adr): each
question reads the entries once. Pages ask again only when the ledger has grown.

What a page shows of the ledger at one instant: small questions that stay small however long the ledger grows.

Each takes a connection, so that several of them see one snapshot. None reads more than the balances, the newest
postings, or the entries of a range of sequences that the caller bounds.

Which generated images came nearest to a work: by the distances in the evidence, which no column holds.

Evidence is compressed, so how much of it is read is bounded: the generations that paid the work most, and the newest of
all, in which a work that was not paid (a near-copy of an earlier one, say) is found too.
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


@dataclass(frozen=True, slots=True)
class WorkEarnings:
    """What an account earned by one work, and in how many postings."""

    training_image_id: TrainingImageId
    credit_micros: int
    generations: int


@dataclass(frozen=True, slots=True)
class PaidGeneration:
    """One generation that paid: by which posting, when it was generated, and how much."""

    sequence: int
    generation_id: str
    generated_at: str
    credit_micros: int


@dataclass(frozen=True, slots=True)
class Earnings:
    """An account's, or a work's, credits, payouts in money left out.

    by_day: day to micro-credits, by the generation's or decision's own time, UTC. uses, generations: those that paid.
    """

    by_day: dict[str, int]
    works: list[WorkEarnings]
    paid_generations: list[PaidGeneration]
    generation_count: int


def account_earnings(connection: Connection, account: str, works: int, uses: int) -> Earnings:
    """What an account was credited and what decisions took back, its `works` best works, its `uses` newest uses."""
    return _earned(connection, entries.c.account == account, works, uses, postings.c.sequence.desc())


def work_earnings(connection: Connection, work: TrainingImageId, uses: int) -> Earnings:
    """Everything that was credited for a work, to whomever, with the `uses` generations that paid it most."""
    return _earned(connection, entries.c.training_image_id == work, 1, uses, amount_sum.desc())


def accounts_of_work(connection: Connection, work: TrainingImageId) -> dict[str, int]:
    """Who has what of a work's credits now, by account."""
    return sums_by_account(connection, entries.c.training_image_id == work)


def posting_at(connection: Connection, sequence: int) -> StoredPosting | None:
    """The posting of a sequence; None if there is none."""
    found = load_postings(connection, postings_where(postings.c.sequence == sequence))
    return found[0] if found else None


def _earned(
    connection: Connection, whose: ColumnElement[bool], works: int, uses: int, order: ColumnElement[Any]
) -> Earnings:
    day = func.substr(postings.c.generated_at, 1, 10)
    by_day = select_with_postings(day, amount_sum).where(whose, postings.c.kind != PAYOUT).group_by(day).order_by(day)
    caused = whose & (postings.c.kind == ATTRIBUTION)
    newest = (
        select_with_postings(postings.c.sequence, postings.c.generation_id, postings.c.generated_at, amount_sum)
        .where(caused)
        .group_by(postings.c.sequence, postings.c.generation_id, postings.c.generated_at)
        .order_by(order, postings.c.sequence.desc())
        .limit(uses)
    )
    count = select_with_postings(func.count(distinct(postings.c.sequence))).where(caused)
    return Earnings(
        {row[0]: row[1] for row in connection.execute(by_day)},
        _by_work(connection, whose, works),
        [PaidGeneration(*row) for row in connection.execute(newest)],
        connection.execute(count).scalar_one(),
    )


def _by_work(connection: Connection, whose: ColumnElement[bool], works: int) -> list[WorkEarnings]:
    query = (
        select(
            entries.c.training_image_id,
            amount_sum,
            func.count(distinct(entries.c.sequence)),
        )
        .where(whose, entries.c.training_image_id.is_not(None))
        .group_by(entries.c.training_image_id)
        .order_by(amount_sum.desc(), entries.c.training_image_id)
        .limit(works)
    )
    return [WorkEarnings(*row) for row in connection.execute(query)]


_QUALITY = re.compile(rb'"quality_millionths":(\d+)')
"""In canonical JSON; within a text the quotes would be escaped. Reading all of the evidence takes ten times as long."""


def top_owners(connection: Connection, limit: int) -> list[Balance]:
    """The `limit` owners with the highest balances, highest first; equal ones by account."""
    query = select(balances.c.account, balances.c.balance_micros).where(is_owner(balances.c.account))
    query = query.order_by(balances.c.balance_micros.desc(), balances.c.account).limit(limit)
    return [Balance(*row) for row in connection.execute(query)]


def count_owners(connection: Connection) -> int:
    """Owners that ever had an entry."""
    found: int = connection.execute(
        select(func.count()).select_from(balances).where(is_owner(balances.c.account))
    ).scalar_one()
    return found


def balances_of(connection: Connection, accounts: Collection[str]) -> dict[str, int]:
    """Balances of accounts; 0 for one that never had an entry."""
    query = select(balances.c.account, balances.c.balance_micros).where(balances.c.account.in_(accounts))
    return dict.fromkeys(accounts, 0) | {row.account: row.balance_micros for row in connection.execute(query)}


def newest_attributions(connection: Connection, limit: int, after: int = 0) -> list[StoredPosting]:
    """The newest postings above `after` that generations caused, newest first."""
    query = postings_where(postings.c.kind == ATTRIBUTION, postings.c.sequence > after)
    return load_postings(connection, query.order_by(postings.c.sequence.desc()).limit(limit))


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


def count_attributions(connection: Connection, after: int, upto: int) -> int:
    """Generations posted above `after` and up to `upto`: sequences have no gaps, and decisions are few."""
    between = (decisions.c.sequence > after, decisions.c.sequence <= upto)
    found: int = connection.execute(select(func.count()).select_from(decisions).where(*between)).scalar_one()
    return upto - after - found


def sums_between(connection: Connection, after: int, upto: int, accounts: Collection[str]) -> dict[str, int]:
    """What accounts gained or lost by the postings above `after` and up to `upto`; reads all entries of those."""
    return sums_by_account(
        connection, entries.c.sequence > after, entries.c.sequence <= upto, entries.c.account.in_(accounts)
    )


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


MAX_READ = 1_000
"""Of either kind."""
_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class NearGeneration:
    """One generation that has a work among its contributors. distance_millionths: lower is nearer.

    credit_micros: what it credited for the work; 0 for one that was listed and not paid.
    """

    sequence: int
    generation_id: str
    generated_at: str
    image_sha256: str
    distance_millionths: int
    credit_micros: int


@dataclass(frozen=True, slots=True)
class Nearest:
    """Nearest first; equal ones newest first. complete: False if there are generations that were not looked at."""

    generations: list[NearGeneration]
    complete: bool


def nearest_generations(connection: Connection, work: TrainingImageId, limit: int, most: int = MAX_READ) -> Nearest:
    """The `limit` nearest of a work's generations. Reads the entries once, and evidence, unchecked, of 2 `most`."""
    paid, newest = _paid_most(connection, work, most + 1), _newest(connection, most + 1)
    wanted = sorted({*paid[:most], *newest[:most]})
    found = list(_naming(connection, work, wanted))
    found.sort(key=lambda one: (one.distance_millionths, -one.sequence))
    # All that paid are enough, but for those that listed the work without paying it.
    return Nearest(found[:limit], len(paid) <= most or len(newest) <= most)


def _paid_most(connection: Connection, work: TrainingImageId, limit: int) -> list[int]:
    query = (
        select(entries.c.sequence)
        .join(postings, postings.c.sequence == entries.c.sequence)
        .where(entries.c.training_image_id == work, postings.c.kind == ATTRIBUTION)
        .group_by(entries.c.sequence)
        .order_by(amount_sum.desc(), entries.c.sequence.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _newest(connection: Connection, limit: int) -> list[int]:
    query = select(postings.c.sequence).where(postings.c.kind == ATTRIBUTION)
    return list(connection.execute(query.order_by(postings.c.sequence.desc()).limit(limit)).scalars())


def _naming(connection: Connection, work: TrainingImageId, sequences: Sequence[int]) -> Iterator[NearGeneration]:
    name = str(work)
    for start in range(0, len(sequences), _AT_ONCE):
        for row in _evidence(connection, sequences[start : start + _AT_ONCE]):
            text = zlib.decompress(row.body)
            # Most do not name it, and looking for its name is a hundred times quicker than reading them.
            if name.encode() in text:
                yield from _contributions(row, name, json.loads(text)["contributions"])


def _evidence(connection: Connection, sequences: Sequence[int]) -> Iterable[Row[Any]]:
    columns = (postings.c[name] for name in ("sequence", "generation_id", "generated_at", "image_sha256"))
    query = select(*columns, evidence.c.body).join(evidence, evidence.c.sequence == postings.c.sequence)
    return connection.execute(query.where(postings.c.sequence.in_(sequences)))


def _contributions(row: Row[Any], name: str, contributions: list[dict[str, Any]]) -> Iterator[NearGeneration]:
    for one in contributions:
        if one["training_image_id"] == name:
            facts = row.sequence, row.generation_id, row.generated_at, row.image_sha256
            yield NearGeneration(*facts, one["distance_millionths"], one["credit_micros"])
