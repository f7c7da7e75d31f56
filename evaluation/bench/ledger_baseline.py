"""The baseline: a plain sqlite3 loop that writes the same rows, in the same batches, with the same settings.

Seeded postings for the ledger's benchmark, made by the real `build_posting`: 50 contributors each.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from gmvaluator.accounts import ISSUANCE, owner_account
from gmvaluator.ids import GenerationId, OwnerId, TrainingImageId, generation_id, training_image_id
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import Entry, ImageFacts, NewPosting
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.ports import Beneficiary, WorkCard
from gmvaluator.profile import ProfileIdentity
from gmvaluator.storage import sqlite
from gmvaluator.valuation.policy import load_policy

TABLES = ("postings", "entries", "evidence")

ADD = "INSERT INTO balances VALUES "
ADDING = " ON CONFLICT (account) DO UPDATE SET balance_micros = balance_micros + excluded.balance_micros"
PARAMETERS = 990
"""Of one statement at most: many rows a statement is faster than `executemany`, so the baseline does it too."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one commit, ready for the driver: by table, the balances' changes, and the head after it."""

    rows: dict[str, list[tuple[Any, ...]]]
    sums: list[tuple[str, int]]
    head: tuple[int, str, int]


def rows_of(folder: Path, batches: Sequence[int]) -> list[Batch]:
    """The rows of a ledger, cut into the commits that wrote them."""
    connection = sqlite3.connect(ledger_file(folder))
    issued = 0
    found: list[Batch] = []
    for after, upto in pairwise([0, *accumulate(batches)]):
        rows = {table: _between(connection, table, after, upto) for table in TABLES}
        sums: dict[str, int] = {}
        for _, _, account, _, amount in rows["entries"]:
            sums[account] = sums.get(account, 0) + amount
        issued -= sums["issuance"]
        found.append(Batch(rows, sorted(sums.items()), (upto, rows["postings"][-1][-1], issued)))
    connection.close()
    return found


def write_bare(folder: Path, batches: Sequence[Batch]) -> float:
    """Seconds that writing them into a new, empty ledger takes."""
    open_ledger(folder, write=True).close()
    engine = sqlite.writing_engine(ledger_file(folder))
    connection: sqlite3.Connection = engine.raw_connection().dbapi_connection  # type: ignore[assignment]
    insert = {table: _insert(table) for table in TABLES}
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            _many(connection, insert[table], batch.rows[table])
        _many(connection, ADD, batch.sums, ADDING)
        connection.execute("UPDATE head SET sequence = ?, hash = ?, issued_micros = ?", batch.head)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    engine.dispose()
    return seconds


def fsync_ms(folder: Path, count: int = 200) -> list[float]:
    """How long this disk takes to make one page more of a file durable."""
    descriptor = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    taken_ms: list[float] = []
    try:
        for _ in range(count):
            os.write(descriptor, os.urandom(4096))
            began = time.perf_counter()
            os.fsync(descriptor)
            taken_ms.append(1_000 * (time.perf_counter() - began))
    finally:
        os.close(descriptor)
    return taken_ms


def _between(connection: sqlite3.Connection, table: str, after: int, upto: int) -> list[tuple[Any, ...]]:
    query = f"SELECT * FROM {table} WHERE sequence > ? AND sequence <= ? ORDER BY 1, 2"  # noqa: S608 - our own names
    return connection.execute(query, (after, upto)).fetchall()


def _insert(table: str) -> str:
    return f"INSERT INTO {table} VALUES "  # noqa: S608 - our own names


def _many(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]], adding: str = "") -> None:
    width = len(rows[0])
    for start in range(0, len(rows), PARAMETERS // width):
        part = rows[start : start + PARAMETERS // width]
        values = ", ".join([f"({', '.join('?' * width)})"] * len(part))
        connection.execute(insert + values + adding, list(chain.from_iterable(part)))


CONTRIBUTORS = 50
WORKS = 10_000
OWNERS = 1_000
TEMPLATES = 400
"""Images that differ in contributors and amounts; further ones repeat them under ids of their own."""

_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
_PROFILE = ProfileIdentity("bench", "recall", "perceptual", "quality", 512, 384, "fp32", {"backbone": "0" * 64})


def owner(number: int) -> OwnerId:
    """An owner; the same number is the same owner."""
    return OwnerId(uuid.UUID(int=random.Random(number).getrandbits(128), version=4))  # noqa: S311


def postings(count: int, first: int = 0) -> Iterator[NewPosting]:
    """Postings `first` to `first + count`, encoded as the pipeline hands them over."""
    templates = [_template(number) for number in range(min(count, TEMPLATES))]
    for number in range(first, first + count):
        posting = replace(templates[number % len(templates)], generation_id=GenerationId(f"image-{number}"))
        posting.encode()
        yield posting


def wide_postings(count: int, entries: int, owners: int) -> Iterator[NewPosting]:
    """Postings with `entries` lines each, dealt to `owners` owners in turn: many rows, quickly."""
    accounts = [owner_account(owner(number)) for number in range(owners)]
    evidence = _template(0).evidence
    works = [_work(number) for number in range(WORKS)]
    for number in range(count):
        lines = [
            Entry(accounts[(number * 7 + line) % owners], works[(number + line) % WORKS], 1 + (number + line) % 97)
            for line in range(entries - 1)
        ]
        issued = sum(line.amount_micros for line in lines)
        whole = (Entry(ISSUANCE, None, -issued), *lines)
        yield NewPosting("bench", generation_id(f"wide-{number}"), _AT, whole, replace(evidence, issued_micros=issued))


def _template(number: int) -> NewPosting:
    chosen = random.Random(number).sample(range(WORKS), CONTRIBUTORS)  # noqa: S311 - a benchmark, not a secret
    valued = ValuedImage(
        generator_identity="bench",
        generation_id=generation_id(f"template-{number}"),
        generated_at=_AT,
        image=ImageFacts(hashlib.sha256(str(number).encode()).hexdigest(), 512, 512, 40_000),
        model_version="bench-1",
        collection="works",
        profile=_PROFILE,
        quality_millionths=500_000 + number,
        timings_ms={"decode_ms": 2.5, "embed_ms": 7.25, "recall_ms": 1.125, "rerank_ms": 0.5, "quality_ms": 3.0},
    )
    candidates = [ScoredCandidate(_work(one), 4_000 * place, 900_000) for place, one in enumerate(chosen)]
    return build_posting(valued, load_policy("paper@1"), candidates, {_work(one): _card(one) for one in chosen})


def _work(number: int) -> TrainingImageId:
    return training_image_id(hashlib.sha256(str(number).encode()).hexdigest())


def _card(number: int) -> WorkCard:
    owner_id = owner(number % OWNERS)
    account = owner_account(owner_id)
    return WorkCard(_work(number), f"work-{number}", "", (Beneficiary(account, owner_id, account, 1_000_000),))
