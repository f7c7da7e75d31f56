"""Database files: one writer, read-only readers, durable commits, schema revisions, instants."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from gmvaluator.errors import AlreadyHeld, Failure, InvalidInput, MissingData, PreconditionFailed
from gmvaluator.ledger.schema import REVISION
from gmvaluator.storage import sqlite
from gmvaluator.storage.database import Database
from gmvaluator.storage.locks import WriterLock, holder
from gmvaluator.storage.schema import BEGINNING, END, from_utc_text, utc_text


def test_a_second_writer_gets_the_name_of_the_holder(tmp_path: Path) -> None:
    file = tmp_path / "some.sqlite"
    lock = WriterLock(file)
    with pytest.raises(AlreadyHeld, match=r"process \d+ \(.+\)"):
        WriterLock(file)
    lock.release()
    lock.release()
    WriterLock(file).release()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/bin/gmvaluator", "rights", "forget", "ada", "--yes"], "gmvaluator rights forget"),
        (["/bin/gmvaluator", "index", "remove", "--owner", "ada"], "gmvaluator index remove"),
        (["/bin/gmvaluator", "serve", "--data", "ada"], "gmvaluator serve"),
        (["/bin/gmvaluator", "--config=ada", "serve"], "gmvaluator"),
    ],
)
def test_a_lock_file_has_the_command_without_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], command: str
) -> None:
    """They may name an owner who is erased later."""
    monkeypatch.setattr("sys.argv", words)
    file = tmp_path / "some.sqlite"
    WriterLock(file).release()
    assert holder(file).endswith(f"({command})")


def test_an_unreadable_lock_file_names_another_process(tmp_path: Path) -> None:
    (tmp_path / "some.sqlite.lock").write_text("[]")
    assert holder(tmp_path / "some.sqlite") == "another process"


def test_the_writer_syncs_every_commit_and_readers_cannot_write(tmp_path: Path) -> None:
    file = tmp_path / "a ?#%.sqlite"
    writer, reader = sqlite.writing_engine(file), sqlite.reading_engine(file)
    with writer.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    with reader.connect() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(text("INSERT INTO t VALUES (1)"))
    reader.dispose()
    writer.dispose()


def test_a_transaction_of_a_reader_is_one_snapshot(tmp_path: Path) -> None:
    file = tmp_path / "some.sqlite"
    writer = sqlite.writing_engine(file)
    with writer.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    reader = sqlite.reading_engine(file)
    count = text("SELECT count(*) FROM t")
    with reader.connect() as reading:
        assert reading.execute(count).scalar() == 0
        with writer.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
        assert reading.execute(count).scalar() == 0
    with reader.connect() as reading:
        assert reading.execute(count).scalar() == 1
    reader.dispose()
    writer.dispose()


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(PreconditionFailed, match=r"install 3\.32\.0"):
        sqlite.writing_engine(tmp_path / "some.sqlite")


def test_a_database_of_a_newer_version_says_upgrade(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    Database(file, REVISION, write=True).close()
    for write in (True, False):
        with pytest.raises(PreconditionFailed, match="upgrade gmvaluator"):
            Database(file, replace(REVISION, revision="0000"), write)


def test_a_reader_of_an_older_database_says_what_upgrades_it(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    Database(file, REVISION, write=True).close()
    with pytest.raises(PreconditionFailed, match="gmvaluator serve"):
        Database(file, replace(REVISION, revision="9999"), write=False)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(PreconditionFailed, match="schema none"):
        Database(tmp_path / "empty.sqlite", REVISION, write=False)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    garbage = tmp_path / "ledger.sqlite"
    garbage.write_bytes(b"this is no database" * 100)
    with pytest.raises(Failure, match=r"ledger\.sqlite.*not a database"):
        Database(garbage, REVISION, write=True)
    WriterLock(garbage).release()
    with pytest.raises(Failure, match=r"absent\.sqlite"):
        Database(tmp_path / "absent.sqlite", REVISION, write=False)
    with pytest.raises(MissingData):
        Database(Path("/proc/no/ledger.sqlite"), REVISION, write=True)


def test_instants_are_utc_text_of_one_width() -> None:
    noon = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
    assert utc_text(noon) == "2026-01-31T12:00:00.000000Z"
    with pytest.raises(InvalidInput, match="time zone"):
        utc_text(datetime(2026, 1, 31))  # noqa: DTZ001


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_text_sorts_as_time_does(instant: datetime, other: datetime) -> None:
    assert from_utc_text(utc_text(instant)) == instant
    assert (utc_text(instant) < utc_text(other)) == (instant < other)
    assert BEGINNING <= utc_text(instant) <= END
