"""Export of one snapshot of the ledger to Parquet files, one for each table, for other programs to read."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, select

from gmvaluator.errors import Conflict, PreconditionFailed
from gmvaluator.ledger.reader import read_head
from gmvaluator.ledger.schema import balances, checkpoints, decisions, entries, evidence, postings

if TYPE_CHECKING:
    import pyarrow as pa

    from gmvaluator.ledger.store import Ledger

BATCH_ROWS = 20_000
"""Number of rows in memory at a time; a twentieth of it for evidence, whose rows are large."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table's query, its columns as `name` (text) or `name:type`, and the conversion of a row to plain values."""

    query: Select[Any]
    columns: str
    plain: Callable[[Any], Sequence[Any]] = tuple


def export(book: Ledger, folder: Path, batch_rows: int = BATCH_ROWS) -> dict[str, Any]:
    """Write `postings`, `entries`, `evidence`, `decisions`, `checkpoints` and `balances` as Parquet files.

    All files are of the same snapshot. Returns the number of rows of each and the head. Raises Conflict if the folder
    is not empty, and PreconditionFailed if it cannot be written. batch_rows: number of rows in memory at a time, a
    twentieth of it for evidence, whose rows are large.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty: name a new folder")
        with book.snapshot() as connection:
            head = read_head(connection)
            rows = {name: _write(connection, folder / f"{name}.parquet", name, batch_rows) for name in _tables()}
    except OSError as error:
        raise PreconditionFailed(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    return {"folder": str(folder), "rows": rows, "head": {"sequence": head.sequence, "hash": head.hash}}


def _write(connection: Connection, file: Path, name: str, batch_rows: int) -> int:
    # Imported here, because no other command of the ledger needs pyarrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _tables()[name]
    schema = _schema(table.columns)
    size = batch_rows // 20 if name == "evidence" else batch_rows
    row_count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in _batches(connection, table.query, size):
            columns = list(zip(*(table.plain(row) for row in batch), strict=True))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            row_count += len(batch)
    return row_count


def _batches(connection: Connection, query: Select[Any], size: int) -> Iterator[Sequence[Row[Any]]]:
    yield from connection.execute(query.execution_options(yield_per=size)).partitions(size)


def _tables() -> dict[str, _Table]:
    """Return the tables by name. Instants (UTC), ids and digests are exported as text."""
    return {
        "postings": _Table(select(postings).order_by(postings.c.sequence), _POSTINGS),
        "entries": _Table(
            select(entries).order_by(entries.c.sequence, entries.c.line),
            "sequence:int64 line:int16 account training_image_id amount_micros:int64",
            lambda row: (row[0], row[1], row[2], None if row[3] is None else str(row[3]), row[4]),
        ),
        "evidence": _Table(
            select(evidence).order_by(evidence.c.sequence),
            "sequence:int64 json",
            lambda row: (row[0], zlib.decompress(row[1]).decode()),
        ),
        "decisions": _Table(
            select(decisions).order_by(decisions.c.sequence),
            "sequence:int64 kind about_sequence:int64 revision:int32 dispute_id period",
        ),
        "checkpoints": _Table(
            select(checkpoints).order_by(checkpoints.c.period),
            "period sequence:int64 statement signature public_key",
            lambda row: (row[0], row[1], bytes(row[2]).decode(), row[3], row[4]),
        ),
        "balances": _Table(select(balances).order_by(balances.c.account), "account balance_micros:int64"),
    }


_POSTINGS = (
    "sequence:int64 kind generator_identity generation_id image_sha256 model_version policy profile_hash generated_at "
    "posted_at issued_micros:int64 entries_digest evidence_digest previous_hash hash"
)


def _schema(columns: str) -> pa.Schema:
    import pyarrow as pa

    pairs = (column.partition(":") for column in columns.split())
    return pa.schema([(name, pa.type_for_alias(kind or "string")) for name, _, kind in pairs])
