"""A ledger's file that is removed, renamed or replaced: nothing is acknowledged, and no other begins in silence."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import event

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.ledger import ledger as ledger_commands
from gmvaluator.errors import LedgerFailed, MissingData, PreconditionFailed, Unavailable
from gmvaluator.ledger.beginning import BEGUN_FILE_NAME
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from gmvaluator.testing.postings import sample_posting
from tests.support.scenes import record, work


def removed(file: Path) -> None:
    file.unlink()


def renamed(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def replaced(file: Path) -> None:
    shutil.copy(file, file.with_name("copy"))
    file.with_name("copy").replace(file)


LOSSES = pytest.mark.parametrize("lose", [removed, renamed, replaced])


@LOSSES
@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_nothing_is_posted_to_a_file_that_is_gone(tmp_path: Path, lose: Callable[[Path], None], ending: str) -> None:
    file = ledger_file(tmp_path)
    with open_ledger(tmp_path, write=True) as book:
        book.post([sample_posting(1)])
        lose(file.with_name(file.name + ending))
        with pytest.raises(Unavailable, match="removed, renamed or replaced"):
            book.check_in_place()
        with pytest.raises(LedgerFailed, match="removed, renamed or replaced while it was open: put it back"):
            book.post([sample_posting(2)])
        with pytest.raises(LedgerFailed, match="stopped after an error"):
            book.decide(lambda _: None)


@LOSSES
def test_what_was_committed_to_a_file_that_is_gone_is_not_acknowledged(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    with open_ledger(tmp_path, write=True) as book:
        # After the check that precedes the commit, and before the commit itself.
        event.listen(book._database.writer, "commit", lambda _: lose(ledger_file(tmp_path)))
        with pytest.raises(LedgerFailed, match="removed, renamed or replaced"):
            book.post([sample_posting(1)])


def test_catalogue_that_is_gone_takes_no_more_works(tmp_path: Path) -> None:
    record(DataLocation(tmp_path), work(1, "ada"))
    with open_catalogue(tmp_path, write=True) as catalogue:
        (tmp_path / "catalogue.sqlite").unlink()
        with pytest.raises(Unavailable, match="removed, renamed or replaced"):
            catalogue.record([work(2, "ada")])


def test_reader_follows_a_file_that_was_replaced_and_says_that_it_is_gone(tmp_path: Path) -> None:
    for name, count in (("old", 1), ("new", 2)):
        with open_ledger(tmp_path / name, write=True) as book:
            book.post([sample_posting(number) for number in range(count)])
    with open_ledger(tmp_path / "old") as reader:
        assert reader.totals().postings == 1
        ledger_file(tmp_path / "new").replace(ledger_file(tmp_path / "old"))
        assert reader.totals().postings == 2
        ledger_file(tmp_path / "old").unlink()
        with pytest.raises(Unavailable, match="was removed or renamed while it was open"):
            reader.totals()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("lose", [removed, renamed, emptied])
def test_folder_whose_ledger_is_gone_begins_no_other_in_silence(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    with open_ledger(tmp_path, write=True) as book:
        book.post([sample_posting(1)])
    lose(ledger_file(tmp_path))
    for write in (True, False):
        with pytest.raises(MissingData, match=r"is gone: restore ledger\.sqlite from a backup, or begin another"):
            open_ledger(tmp_path, write=write)
    with open_ledger(tmp_path, write=True, new=True) as book:
        assert book.totals().postings == 0


def test_new_ledger_takes_the_place_of_none(tmp_path: Path) -> None:
    open_ledger(tmp_path, write=True, new=True).close()
    with pytest.raises(PreconditionFailed, match="already: leave out --new-ledger"):
        open_ledger(tmp_path, write=True, new=True)


def test_log_of_a_lost_ledger_is_kept(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite-wal").write_bytes(b"committed")
    (tmp_path / "ledger.sqlite-shm").write_bytes(b"index")
    with open_ledger(tmp_path, write=True, new=True) as book:
        assert book.totals().postings == 0
    (kept,) = tmp_path.glob("ledger.sqlite-lost-*Z-wal")
    assert kept.read_bytes() == b"committed"


def test_ledger_of_an_older_version_is_known_from_its_next_start(tmp_path: Path) -> None:
    open_ledger(tmp_path, write=True).close()
    (tmp_path / BEGUN_FILE_NAME).unlink()
    open_ledger(tmp_path, write=True).close()
    ledger_file(tmp_path).unlink()
    with pytest.raises(MissingData, match="--new-ledger"):
        open_ledger(tmp_path, write=True)


@pytest.fixture
def server_place(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[DataLocation]:
    url = postgres_server.new_database()
    yield DataLocation(tmp_path / "data", url)
    postgres_server.drop_database(url)


@pytest.mark.parametrize("same_folder", [True, False])
def test_schema_that_is_gone_is_begun_anew_only_on_demand(server_place: DataLocation, same_folder: bool) -> None:
    server_place.folder.mkdir()
    with open_ledger(server_place, write=True) as book:
        book.post([sample_posting(1)])
    with psycopg.connect(server_place.database_url, autocommit=True) as server:
        server.execute("DROP SCHEMA ledger CASCADE")
    # Another attributor has a folder of its own, or cannot write in this one.
    place = server_place if same_folder else DataLocation(server_place.folder / "none", server_place.database_url)
    for write in (True, False):
        with pytest.raises(MissingData, match=r"is gone: restore schema ledger of PostgreSQL from a backup, or begin"):
            open_ledger(place, write=write)
    with open_ledger(place, write=True, new=True) as book:
        assert book.totals().postings == 0
    with pytest.raises(PreconditionFailed, match="already: leave out --new-ledger"):
        open_ledger(place, write=True, new=True)
    open_ledger(place, write=True).close()


def test_empty_database_takes_no_ledger_of_a_folder_that_had_one(server_place: DataLocation) -> None:
    open_ledger(server_place.folder, write=True).close()
    with pytest.raises(MissingData, match=r"is gone: .*; if .* another database, name it in DATABASE_URL"):
        open_ledger(server_place, write=True)


def test_folder_of_a_ledger_on_a_server_takes_no_other(server_place: DataLocation) -> None:
    server_place.folder.mkdir()
    open_ledger(server_place, write=True).close()
    with pytest.raises(MissingData, match=r"is gone: .*; if .* another database, name it in DATABASE_URL"):
        open_ledger(server_place.folder, write=True)


def test_user_who_may_create_no_schema_opens_the_ledger_as_before(server_place: DataLocation) -> None:
    url = server_place.database_url
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    place = DataLocation(server_place.folder, f"{url}{'&' if '?' in url else '?'}options=-crole%3Dwriter_{name}")
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE ROLE writer_{name}".encode())
        server.execute(f'GRANT CREATE ON DATABASE "{name}" TO writer_{name}'.encode())
        open_ledger(place, write=True).close()
        server.execute(f'REVOKE CREATE ON DATABASE "{name}" FROM writer_{name}'.encode())
        open_ledger(place, write=True).close()
        server.execute("DROP SCHEMA ledger_begun")
        open_ledger(place, write=True).close()
        server.execute(f"DROP OWNED BY writer_{name} CASCADE".encode())
        server.execute(f"DROP ROLE writer_{name}".encode())


COMMANDS = (
    "close 2026-08 --currency EUR --rate 1",
    "payout 2026-08",
    "payout-reference 2026-08 batch-7",
    "reverse x --reason y",
    "reattribute x --policy paper@1 --reason y",
    "dispute open case-7 --generation x --reason y",
    "dispute hold case-7",
    "dispute decide case-7 --reject --reason y",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_that_writes_begins_no_ledger(place: DataLocation, command: str) -> None:
    data = place.folder / "data"
    result = CliRunner().invoke(
        ledger_commands, [*command.split(), "--data", str(data), "--database", place.database_url]
    )
    assert isinstance(result.exception, MissingData)
    where = "schema ledger of PostgreSQL" if place.database_url else str(data)
    assert str(result.exception).startswith(f"there is no ledger in {where}: `gmvaluator serve` begins one")
    assert not data.exists()
    with pytest.raises(MissingData, match="there is no ledger in"):
        open_ledger(DataLocation(data, place.database_url))
