"""What one account, or one work, earned: sums and the generations behind them, for a page about it.

Entries are indexed by sequence alone, as a second index would cost the writer more than all else (docs/adr): each
question reads the entries once. Pages ask again only when the ledger has grown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, distinct, func, select

from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.corrections.state import amount_sum
from gmvaluator.ledger.decisions import PAYOUT
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import entries, postings


@dataclass(frozen=True, slots=True)
class WorkEarned:
    """What an account had of one work. newest_sequence: its newest posting."""

    training_image_id: TrainingImageId
    credit_micros: int
    generations: int
    newest_sequence: int


@dataclass(frozen=True, slots=True)
class Use:
    """One generation that paid: by which posting, when it was generated, and how much."""

    sequence: int
    generation_id: str
    generated_at: str
    credit_micros: int


@dataclass(frozen=True, slots=True)
class Earned:
    """An account's, or a work's, credits, payouts in money left out.

    by_day: day to micro-credits, by the generation's or decision's own time, UTC. uses, generations: those that paid.
    """

    by_day: dict[str, int]
    works: list[WorkEarned]
    uses: list[Use]
    generations: int


def earned_by_account(connection: Connection, account: str, works: int, uses: int) -> Earned:
    """What an account was credited and what decisions took back, its `works` best works, its `uses` newest uses."""
    return _earned(connection, entries.c.account == account, works, uses, postings.c.sequence.desc())


def earned_by_work(connection: Connection, work: TrainingImageId, uses: int) -> Earned:
    """Everything that was credited for a work, to whomever, with the `uses` generations that paid it most."""
    return _earned(connection, entries.c.training_image_id == work, 1, uses, amount_sum.desc())


def accounts_of_work(connection: Connection, work: TrainingImageId) -> dict[str, int]:
    """Who has what of a work's credits now, by account."""
    query = select(entries.c.account, amount_sum).where(entries.c.training_image_id == work)
    query = query.group_by(entries.c.account).having(amount_sum != 0).order_by(entries.c.account)
    return {row[0]: row[1] for row in connection.execute(query)}


def posting_at(connection: Connection, sequence: int) -> StoredPosting | None:
    """The posting of a sequence; None if there is none."""
    found = load(connection, postings_where(postings.c.sequence == sequence))
    return found[0] if found else None


def postings_at(connection: Connection, sequences: list[int]) -> list[StoredPosting]:
    """The postings of some sequences, ascending."""
    return load(connection, postings_where(postings.c.sequence.in_(sequences)).order_by(postings.c.sequence))


def _earned(
    connection: Connection, whose: ColumnElement[bool], works: int, uses: int, order: ColumnElement[Any]
) -> Earned:
    day = func.substr(postings.c.generated_at, 1, 10)
    by_day = _joined(day, amount_sum).where(whose, postings.c.kind != PAYOUT).group_by(day).order_by(day)
    caused = whose & (postings.c.kind == ATTRIBUTION)
    newest = (
        _joined(postings.c.sequence, postings.c.generation_id, postings.c.generated_at, amount_sum)
        .where(caused)
        .group_by(postings.c.sequence, postings.c.generation_id, postings.c.generated_at)
        .order_by(order, postings.c.sequence.desc())
        .limit(uses)
    )
    count = _joined(func.count(distinct(postings.c.sequence))).where(caused)
    return Earned(
        {row[0]: row[1] for row in connection.execute(by_day)},
        _by_work(connection, whose, works),
        [Use(*row) for row in connection.execute(newest)],
        connection.execute(count).scalar_one(),
    )


def _by_work(connection: Connection, whose: ColumnElement[bool], works: int) -> list[WorkEarned]:
    query = (
        select(
            entries.c.training_image_id,
            amount_sum,
            func.count(distinct(entries.c.sequence)),
            func.max(entries.c.sequence),
        )
        .where(whose, entries.c.training_image_id.is_not(None))
        .group_by(entries.c.training_image_id)
        .order_by(amount_sum.desc(), entries.c.training_image_id)
        .limit(works)
    )
    return [WorkEarned(*row) for row in connection.execute(query)]


def _joined(*columns: Any) -> Select[Any]:
    return select(*columns).select_from(entries.join(postings, postings.c.sequence == entries.c.sequence))
