"""A ledger for the dashboard's benchmark: a million postings, quickly, and a writer that goes on at a given rate.

The past is inserted as rows, without hashes, which the dashboard does not read; the newest postings, which it shows
and checks, and all that follow are made by the real `build_posting` and the real writer.
"""

from __future__ import annotations

import sqlite3
import sys
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rich_click as click

from evaluation.bench.ledger_postings import CONTRIBUTORS
from evaluation.bench.ledger_postings import postings as made_postings
from gmvaluator.ids import GenerationId, OwnerId
from gmvaluator.ledger.records import Entry, NewPosting, owner_account
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.storage.schema import utc_text

OWNERS = 10_000
NEWEST = 200
BATCHES_PER_S = 10
_ZEROS = "0" * 64
_AGE = timedelta(days=90)


def owner(number: int) -> str:
    """Account of an owner; the same number is the same owner."""
    return owner_account(OwnerId(uuid.UUID(int=(number % OWNERS) * 7_919 + 1, version=4)))


def fill(folder: Path, count: int) -> None:
    """`count` postings of two entries each to the owners in turn, spread over 90 days; the newest are whole."""
    open_ledger(folder, write=True).close()
    connection = sqlite3.connect(ledger_file(folder))
    connection.execute("PRAGMA synchronous=OFF")
    began = datetime.now(UTC) - _AGE
    body = zlib.compress(next(made_postings(1)).evidence_json)
    step = _AGE / max(count, 1)
    headers = ((number, "attribution", "bench", f"old-{number}", _ZEROS, "bench-1", "paper@1", _ZEROS,
                utc_text(began + step * number), utc_text(began + step * number), 1_000, _ZEROS, _ZEROS, _ZEROS, _ZEROS)
               for number in range(1, count + 1))  # fmt: skip
    connection.executemany("INSERT INTO postings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", headers)
    lines = (line for number in range(1, count + 1)
             for line in ((number, 0, "issuance", None, -1_000), (number, 1, owner(number), None, 1_000)))  # fmt: skip
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", lines)
    connection.executemany("INSERT INTO evidence VALUES (?, ?)", ((number, body) for number in (count,)))
    connection.execute("INSERT INTO balances SELECT account, sum(amount_micros) FROM entries GROUP BY account")
    connection.execute("UPDATE head SET sequence = ?, hash = ?, issued_micros = ?", (count, _ZEROS, 1_000 * count))
    connection.commit()
    connection.close()
    with open_ledger(folder, write=True) as ledger:
        ledger.post(list(spread(NEWEST, "newest")))


def spread(count: int, prefix: str) -> Iterator[NewPosting]:
    """Postings of 50 contributors each, dealt to 10,000 owners."""
    for number, posting in enumerate(made_postings(count)):
        entries = tuple(_dealt(line, entry, number) for line, entry in enumerate(posting.entries))
        dealt = replace(posting, generation_id=GenerationId(f"{prefix}-{number}"), entries=entries)
        dealt.encode()
        yield dealt


def _dealt(line: int, entry: Entry, number: int) -> Entry:
    if not entry.account.startswith("owner:"):
        return entry
    return replace(entry, account=owner(number * CONTRIBUTORS + line))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--per-second", default=400.0, help="Postings a second, 50 credits each.")
@click.option("--seconds", default=60.0, help="For how long.")
def write(folder: Path, per_second: float, seconds: float) -> None:
    """Make postings, wait for a line, and post them at a rate.

    Prints "made", "ready", and then each commit's newest sequence and when it was durable, by the machine's clock.
    """
    size = max(1, round(per_second / BATCHES_PER_S))
    batch = round(seconds * BATCHES_PER_S)
    ready = spread(batch * size, uuid.uuid4().hex)
    # Made beforehand: making them takes longer than writing them, and would be measured as the writer's lateness.
    batches = [[next(ready) for _ in range(size)] for _ in range(batch)]
    click.echo("made")
    if not sys.stdin.readline():
        return
    with open_ledger(folder, write=True) as ledger:
        click.echo("ready")
        began = time.monotonic()
        for number, one in enumerate(batches):
            time.sleep(max(0.0, began + number / BATCHES_PER_S - time.monotonic()))
            ledger.post(one)
            click.echo(f"{ledger.head().sequence} {time.monotonic()}")


if __name__ == "__main__":
    write()
