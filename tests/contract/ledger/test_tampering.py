"""Tampering with the database file: `verify` finds each change and names the row."""

import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from gmvaluator.errors import GmvaluatorError, LedgerCorrupt
from gmvaluator.ledger.results import Head, Verification
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from gmvaluator.testing.postings import sample_posting
from tests.support.tampering import without_triggers

Tampering = Callable[[sqlite3.Connection], object]

WITH_DASHES = " || '-' || ".join(
    f"substr(training_image_id, {start}, {count})" for start, count in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
)
"""The same work written as a UUID usually is, which no query finds."""


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    with open_ledger(folder, write=True) as ledger:
        ledger.post([sample_posting(number) for number in range(1, 11)])
        assert ledger.verify().ok
    return ledger_file(folder).read_bytes()


@pytest.fixture
def verified_after(sound_file: bytes, tmp_path: Path) -> Callable[..., Verification]:
    """Return a function that copies the sound ledger, tampers with it behind its triggers, and verifies it."""

    def verify(tamper: Tampering, expected: Head | None = None) -> Verification:
        ledger_file(tmp_path).write_bytes(sound_file)
        with without_triggers(ledger_file(tmp_path)) as connection:
            tamper(connection)
        with open_ledger(tmp_path) as ledger:
            return ledger.verify(expected)

    return verify


def test_a_sound_copy_passes(verified_after: Callable[..., Verification]) -> None:
    report = verified_after(lambda _: None)
    assert report.ok
    assert report.postings == 10
    assert report.text().startswith("10 postings")


def sql(statement: str) -> Tampering:
    return lambda connection: connection.executescript(statement)


def swap(connection: sqlite3.Connection) -> None:
    for table in ("evidence", "entries", "postings"):
        connection.executescript(
            f"UPDATE {table} SET sequence = 1000 WHERE sequence = 4;"
            f"UPDATE {table} SET sequence = 4 WHERE sequence = 5;"
            f"UPDATE {table} SET sequence = 5 WHERE sequence = 1000;"
        )


def rewritten_evidence(connection: sqlite3.Connection) -> None:
    (body,) = connection.execute("SELECT body FROM evidence WHERE sequence = 6").fetchone()
    changed = zlib.decompress(body).replace(b'"quality_millionths":', b'"quality_millionths":1')
    connection.execute("UPDATE evidence SET body = ? WHERE sequence = 6", (zlib.compress(changed),))


@pytest.mark.parametrize(
    ("tamper", "sequence", "line", "what"),
    [
        (sql("UPDATE entries SET amount_micros = amount_micros + 1 WHERE sequence = 3 AND line = 2"), 3, 2, "changed"),
        (sql("UPDATE entries SET account = 'held' WHERE sequence = 3 AND line = 1"), 3, 1, "changed"),
        (sql(f"UPDATE entries SET training_image_id = {WITH_DASHES} WHERE sequence = 3 AND line = 1"), 3, 1, "changed"),
        (sql("DELETE FROM entries WHERE sequence = 3 AND line = 2"), 3, 2, "removed"),
        (sql("DELETE FROM entries WHERE sequence = 3"), 3, 0, "removed"),
        (sql("INSERT INTO entries VALUES (3, 99, 'held', NULL, 5)"), 3, 99, "inserted"),
        (sql("INSERT INTO entries VALUES (77, 0, 'held', NULL, 5)"), 77, 0, "inserted"),
        (
            sql(
                "UPDATE entries SET line = 100 WHERE sequence = 3 AND line = 1;"
                "UPDATE entries SET line = 1 WHERE sequence = 3 AND line = 2;"
                "UPDATE entries SET line = 2 WHERE sequence = 3 AND line = 100"
            ),
            3,
            1,
            "changed",
        ),
        (sql("UPDATE postings SET issued_micros = issued_micros + 1 WHERE sequence = 7"), 7, None, "changed"),
        (sql("UPDATE postings SET posted_at = '2020-01-01T00:00:00.000000Z' WHERE sequence = 7"), 7, None, "changed"),
        (sql("UPDATE postings SET hash = previous_hash WHERE sequence = 7"), 7, None, "changed"),
        (sql("DELETE FROM postings WHERE sequence = 5"), 5, None, "removed"),
        (
            sql(
                "DELETE FROM evidence WHERE sequence = 5; DELETE FROM entries WHERE sequence = 5;"
                "DELETE FROM postings WHERE sequence = 5"
            ),
            5,
            None,
            "removed",
        ),
        (
            sql(
                "INSERT INTO postings SELECT 11, kind, generator_identity, 'x', image_sha256, model_version, policy,"
                " profile_hash, generated_at, posted_at, issued_micros, entries_digest, evidence_digest, hash, hash"
                " FROM postings WHERE sequence = 10"
            ),
            11,
            None,
            "changed",
        ),
        (swap, 4, None, "re-ordered"),
        (sql("DELETE FROM evidence WHERE sequence = 6"), 6, None, "evidence is missing"),
        (sql("UPDATE evidence SET body = x'00' WHERE sequence = 6"), 6, None, "evidence is not"),
        (rewritten_evidence, 6, None, "evidence is not"),
        (sql("INSERT INTO evidence VALUES (55, x'00')"), 55, None, "inserted"),
        (sql("UPDATE balances SET balance_micros = balance_micros + 1 WHERE account = 'held'"), 10, None, "balance"),
        (sql("DELETE FROM balances WHERE account = 'issuance'"), 10, None, "balance of issuance"),
        (sql("INSERT INTO balances VALUES ('owner:x', 1)"), 10, None, "balance of owner:x"),
        (sql("INSERT INTO balances VALUES ('owner:x', 0)"), 10, None, "balance of owner:x has no entries: it was ins"),
        (sql("UPDATE head SET issued_micros = 1"), 10, None, "head"),
        (sql("UPDATE head SET sequence = 9"), 10, None, "after the head"),
        (sql("UPDATE head SET hash = 'x'"), 10, None, "head"),
    ],
)
def test_tampering_is_found_and_the_first_row_named(
    verified_after: Callable[..., Verification], tamper: Tampering, sequence: int, line: int | None, what: str
) -> None:
    report = verified_after(tamper)
    assert report.first is not None
    assert not report.ok
    assert (report.first.sequence, report.first.line) == (sequence, line)
    assert what in report.first.what
    assert report.text().startswith(f"posting {sequence}")


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("DROP TRIGGER entries_no_update", "trigger entries_no_update is missing: it was dropped"),
        (
            "DROP TRIGGER entries_no_update; CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries"
            " WHEN OLD.sequence > 5"
            " BEGIN SELECT RAISE(ABORT, 'entries are append-only: post a correction instead'); END",
            "trigger entries_no_update is not what the ledger made: it was changed or disabled",
        ),
        (
            "CREATE TRIGGER skim AFTER INSERT ON balances BEGIN UPDATE balances SET balance_micros = 0; END",
            "trigger skim is not the ledger's: it was added",
        ),
    ],
)
def test_dropped_changed_and_foreign_triggers_are_found(
    sound_file: bytes, tmp_path: Path, statement: str, what: str
) -> None:
    ledger_file(tmp_path).write_bytes(sound_file)
    connection = sqlite3.connect(ledger_file(tmp_path))
    connection.executescript(statement)
    connection.close()
    with open_ledger(tmp_path) as ledger:
        assert ledger.verify().text() == f"posting 10: {what}"


ALLOWING = "RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"


def test_dropped_changed_and_foreign_triggers_are_found_on_postgresql(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    place = DataLocation(tmp_path, postgres_server.new_database())
    with open_ledger(place, write=True) as ledger, psycopg.connect(place.database_url, autocommit=True) as server:
        assert ledger.verify().ok
        for change, undo, what in (
            ("ALTER TABLE ledger.entries DISABLE TRIGGER USER", "ALTER TABLE ledger.entries ENABLE TRIGGER USER",
             "trigger entries_no_change is not what the ledger made: it was changed or disabled"),
            ("CREATE RULE keep AS ON UPDATE TO ledger.balances DO INSTEAD NOTHING", "DROP RULE keep ON ledger.balances",
             "trigger keep is not the ledger's: it was added"),
            (f"CREATE FUNCTION ledger.skim() {ALLOWING}", "DROP FUNCTION ledger.skim()",
             "trigger skim is not the ledger's: it was added"),
            (f"CREATE OR REPLACE FUNCTION ledger.refuse_change_of_entries() {ALLOWING}", "SELECT 1",
             "trigger refuse_change_of_entries is not what the ledger made: it was changed or disabled"),
            ("DROP TRIGGER entries_no_change ON ledger.entries", "SELECT 1", "trigger entries_no_change is missing"),
        ):  # fmt: skip
            server.execute(change.encode())
            assert ledger.verify().text().startswith(f"posting 0: {what}")
            server.execute(undo.encode())


CUT_TAIL = sql(
    "DELETE FROM evidence WHERE sequence > 8; DELETE FROM entries WHERE sequence > 8;"
    "DELETE FROM postings WHERE sequence > 8;"
)
REPAIR_HEAD = (
    "UPDATE head SET sequence = 8, hash = (SELECT hash FROM postings WHERE sequence = 8),"
    " issued_micros = (SELECT sum(issued_micros) FROM postings); DELETE FROM balances;"
    "INSERT INTO balances SELECT account, sum(amount_micros) FROM entries GROUP BY account;"
)


def test_a_cut_tail_is_seen_by_the_head(verified_after: Callable[..., Verification]) -> None:
    report = verified_after(CUT_TAIL)
    assert report.first is not None
    assert report.first.sequence == 9
    assert "missing" in report.first.what


def test_a_cut_tail_with_a_repaired_head_is_seen_by_a_head_that_was_handed_out(
    verified_after: Callable[..., Verification],
) -> None:
    handed_out = verified_after(lambda _: None).head

    def cut_and_repair_head(connection: sqlite3.Connection) -> None:
        CUT_TAIL(connection)
        connection.executescript(REPAIR_HEAD)

    assert verified_after(cut_and_repair_head).ok
    report = verified_after(cut_and_repair_head, handed_out)
    assert report.first is not None
    assert report.first.sequence == 9
    rewritten = verified_after(lambda _: None, Head(6, "0" * 64))
    assert rewritten.first is not None
    assert rewritten.first.sequence == 6
    assert verified_after(lambda _: None, handed_out).ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount_micros = amount_micros + 1 WHERE sequence = 3 AND line = 2",
        "UPDATE postings SET issued_micros = 1 WHERE sequence = 3",
        "UPDATE evidence SET body = x'00' WHERE sequence = 3",
    ],
)
def test_reading_a_damaged_posting_is_refused(sound_file: bytes, tmp_path: Path, statement: str) -> None:
    ledger_file(tmp_path).write_bytes(sound_file)
    connection = sqlite3.connect(ledger_file(tmp_path))
    for table in ("postings", "entries", "evidence"):
        connection.execute(f"DROP TRIGGER {table}_no_update")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with open_ledger(tmp_path) as ledger, pytest.raises(LedgerCorrupt, match=r"posting 3.*ledger verify"):
        ledger.posting_of_generation("generation-3")


def test_a_ledger_without_its_head_is_refused(sound_file: bytes, tmp_path: Path) -> None:
    ledger_file(tmp_path).write_bytes(sound_file)
    connection = sqlite3.connect(ledger_file(tmp_path))
    connection.execute("DELETE FROM head")
    connection.commit()
    connection.close()
    with open_ledger(tmp_path) as ledger, pytest.raises(LedgerCorrupt, match="backup"):
        ledger.totals()


def damage_is_reported(folder: Path) -> bool:
    """Return whether `verify` names a row or raises an error of the product; other exceptions pass through."""
    try:
        with open_ledger(folder) as ledger:
            return not ledger.verify().ok
    except GmvaluatorError:
        return True


@pytest.mark.parametrize("start", [4096, 8192, 20_000])
def test_a_file_whose_pages_are_damaged_is_refused(sound_file: bytes, tmp_path: Path, start: int) -> None:
    damaged = bytearray(sound_file)
    damaged[start : start + 40_000] = b"\xff" * min(40_000, len(damaged) - start)
    ledger_file(tmp_path).write_bytes(damaged)
    assert damage_is_reported(tmp_path)
