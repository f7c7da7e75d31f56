"""Which generated images came nearest to a work: by the distances in the evidence, which no column holds.

Evidence is compressed, so how much of it is read is bounded: the generations that paid the work most, and the newest of
all, in which a work that was not paid (a near-copy of an earlier one, say) is found too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.corrections.state import amount_sum
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.schema import entries, evidence, postings

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
