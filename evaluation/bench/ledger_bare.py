"""The baseline: a plain sqlite3 loop that writes the same rows, in the same batches, with the same settings."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.storage import sqlite

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
