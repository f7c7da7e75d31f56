"""Postings and baseline of the ledger benchmark.

Postings are seeded and made by `build_posting`, with 50 contributors each. The baseline is a plain sqlite3 loop that
writes the same rows as the ledger, in the same batches and with the same settings.
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

INSERT_BALANCES = "INSERT INTO balances VALUES "
ADD_TO_BALANCE = " ON CONFLICT (account) DO UPDATE SET balance_micros = balance_micros + excluded.balance_micros"
# Many rows per statement are faster than `executemany`; the ledger does the same.
PARAMETERS = 990
"""Parameters of one statement, at most."""


CONTRIBUTORS = 50
WORKS = 10_000
OWNERS = 1_000
TEMPLATES = 400
"""Postings with different contributors and amounts; further ones repeat these under other ids."""

_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
_PROFILE = ProfileIdentity("bench", "recall", "perceptual", "quality", 512, 384, "fp32", {"backbone": "0" * 64})


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a commit, ready for the driver.

    rows: by table. sums: change of each account's balance. head: sequence, hash and issued micro-credits after the
    commit.
    """

    rows: dict[str, list[tuple[Any, ...]]]
    sums: list[tuple[str, int]]
    head: tuple[int, str, int]


def rows_of(folder: Path, batches: Sequence[int]) -> list[Batch]:
    """Read the rows of the ledger in `folder`, divided into the commits that wrote them.

    batches: postings per commit.
    """
    connection = sqlite3.connect(ledger_file(folder))
    issued = 0
    commits: list[Batch] = []
    for after, upto in pairwise([0, *accumulate(batches)]):
        rows = {table: _between(connection, table, after, upto) for table in TABLES}
        sums: dict[str, int] = {}
        for _, _, account, _, amount in rows["entries"]:
            sums[account] = sums.get(account, 0) + amount
        issued -= sums["issuance"]
        commits.append(Batch(rows, sorted(sums.items()), (upto, rows["postings"][-1][-1], issued)))
    connection.close()
    return commits


def write_rows(folder: Path, batches: Sequence[Batch]) -> float:
    """Write the batches into a new, empty ledger by a plain sqlite3 loop; return the seconds that it took."""
    open_ledger(folder, write=True).close()
    engine = sqlite.writing_engine(ledger_file(folder))
    connection: sqlite3.Connection = engine.raw_connection().dbapi_connection  # type: ignore[assignment]
    insert = {table: _insert(table) for table in TABLES}
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            _insert_many(connection, insert[table], batch.rows[table])
        _insert_many(connection, INSERT_BALANCES, batch.sums, ADD_TO_BALANCE)
        connection.execute("UPDATE head SET sequence = ?, hash = ?, issued_micros = ?", batch.head)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    engine.dispose()
    return seconds


def fsync_ms(folder: Path, count: int = 200) -> list[float]:
    """Return the latencies of `count` fsyncs, each after another page was appended to a file in `folder`."""
    descriptor = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    latencies_ms: list[float] = []
    try:
        for _ in range(count):
            os.write(descriptor, os.urandom(4096))
            began = time.perf_counter()
            os.fsync(descriptor)
            latencies_ms.append(1_000 * (time.perf_counter() - began))
    finally:
        os.close(descriptor)
    return latencies_ms


def _between(connection: sqlite3.Connection, table: str, after: int, upto: int) -> list[tuple[Any, ...]]:
    query = f"SELECT * FROM {table} WHERE sequence > ? AND sequence <= ? ORDER BY 1, 2"  # noqa: S608 - our own names
    return connection.execute(query, (after, upto)).fetchall()


def _insert(table: str) -> str:
    return f"INSERT INTO {table} VALUES "  # noqa: S608 - our own names


def _insert_many(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]], on_conflict: str = ""
) -> None:
    width = len(rows[0])
    for start in range(0, len(rows), PARAMETERS // width):
        part = rows[start : start + PARAMETERS // width]
        values = ", ".join([f"({', '.join('?' * width)})"] * len(part))
        connection.execute(insert + values + on_conflict, list(chain.from_iterable(part)))


def owner(number: int) -> OwnerId:
    """Return the id of owner `number`, which is the same in every run."""
    return OwnerId(uuid.UUID(int=random.Random(number).getrandbits(128), version=4))  # noqa: S311


def postings(count: int, first: int = 0) -> Iterator[NewPosting]:
    """Yield postings `first` to `first + count`, encoded as by the pipeline."""
    templates = [_template(number) for number in range(min(count, TEMPLATES))]
    for number in range(first, first + count):
        posting = replace(templates[number % len(templates)], generation_id=GenerationId(f"image-{number}"))
        posting.encode()
        yield posting


def wide_postings(count: int, entries: int, owners: int) -> Iterator[NewPosting]:
    """Yield `count` postings of `entries` entries each, distributed over `owners` owners. They are made quickly."""
    accounts = [owner_account(owner(number)) for number in range(owners)]
    evidence = _template(0).evidence
    works = [_work(number) for number in range(WORKS)]
    for number in range(count):
        paid = [
            Entry(accounts[(number * 7 + line) % owners], works[(number + line) % WORKS], 1 + (number + line) % 97)
            for line in range(entries - 1)
        ]
        issued = sum(credit.amount_micros for credit in paid)
        all_entries = (Entry(ISSUANCE, None, -issued), *paid)
        evidence_of_all = replace(evidence, issued_micros=issued)
        yield NewPosting("bench", generation_id(f"wide-{number}"), _AT, all_entries, evidence_of_all)


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
    candidates = [ScoredCandidate(_work(work), 4_000 * rank, 900_000) for rank, work in enumerate(chosen)]
    return build_posting(valued, load_policy("paper@1"), candidates, {_work(work): _card(work) for work in chosen})


def _work(number: int) -> TrainingImageId:
    return training_image_id(hashlib.sha256(str(number).encode()).hexdigest())


def _card(number: int) -> WorkCard:
    owner_id = owner(number % OWNERS)
    account = owner_account(owner_id)
    return WorkCard(_work(number), f"work-{number}", "", (Beneficiary(account, owner_id, account, 1_000_000),))
