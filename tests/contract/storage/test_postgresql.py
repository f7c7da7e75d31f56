"""PostgreSQL only: concurrent writers, lost connections, invalid URLs."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import InvalidInput, LedgerFailed, Unavailable
from gmvaluator.ids import sha256_hex
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from gmvaluator.testing.postings import sample_posting, sample_work

WRITERS = 4
ROUNDS = 12


@pytest.fixture
def server_place(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[DataLocation]:
    url = postgres_server.new_database()
    yield DataLocation(tmp_path, url)
    postgres_server.drop_database(url)


def test_many_writers_post_each_key_once_and_no_cursor_skips(server_place: DataLocation) -> None:
    open_ledger(server_place, write=True).close()

    def write(writer: int) -> list[type]:
        kinds: list[type] = []
        with open_ledger(server_place, write=True) as ledger:
            for round_ in range(ROUNDS):
                # Every writer posts three of its own, and one that all of them post.
                numbers = [1_000 * (writer + 1) + 3 * round_ + offset for offset in range(3)]
                batch = [sample_posting(number) for number in [*numbers, round_]]
                kinds += [type(outcome) for outcome in ledger.post(batch)]
        return kinds

    def follow() -> list[int]:
        seen: list[int] = []
        with open_ledger(server_place) as reader:
            while len(seen) < WRITERS * ROUNDS * 3 + ROUNDS:
                seen += [posting.sequence for posting in reader.postings_after(seen[-1] if seen else 0)]
        return seen

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        follower = pool.submit(follow)
        kinds = list(itertools.chain.from_iterable(pool.map(write, range(WRITERS))))
        assert follower.result(60) == list(range(1, WRITERS * ROUNDS * 3 + ROUNDS + 1))
    assert kinds.count(Posted) == WRITERS * ROUNDS * 3 + ROUNDS
    assert kinds.count(Replayed) == (WRITERS - 1) * ROUNDS
    with open_ledger(server_place) as ledger:
        assert ledger.verify().ok
        assert ledger.totals().reconciles


def test_many_may_make_the_schema_at_once(server_place: DataLocation) -> None:
    def make(_: int) -> int:
        with open_ledger(server_place, write=True) as ledger:
            return ledger.totals().postings

    with ThreadPoolExecutor(WRITERS) as pool:
        assert list(pool.map(make, range(WRITERS))) == [0] * WRITERS


def test_many_may_record_the_same_works_and_owners_at_once(server_place: DataLocation) -> None:
    works = [
        NewWork(
            sample_work(number), sha256_hex(str(number).encode()), 8, 8, "paintings", f"work-{number}", "",
            owner=OwnerReference(str(number % 5), f"Owner {number % 5}"),
        )
        for number in range(40)
    ]  # fmt: skip

    def record(_: int) -> int:
        with open_catalogue(server_place, write=True) as catalogue:
            return catalogue.record(works).works

    with ThreadPoolExecutor(WRITERS) as pool:
        assert sorted(pool.map(record, range(WRITERS))) == [0] * (WRITERS - 1) + [40]
    with open_catalogue(server_place) as catalogue:
        assert (catalogue.counts().works, catalogue.counts().owners, catalogue.counts().claims) == (40, 5, 40)


def test_a_writer_that_lost_its_server_stops(server_place: DataLocation) -> None:
    with open_ledger(server_place, write=True) as ledger:
        ledger.post([sample_posting(1)])
        end_connections(server_place.database_url)
        with pytest.raises(LedgerFailed, match="restart"):
            ledger.post([sample_posting(2)])
        with pytest.raises(LedgerFailed, match="stopped after an error"):
            ledger.post([sample_posting(2)])
        assert ledger.totals().postings == 1
    with open_ledger(server_place, write=True) as ledger:
        assert [type(outcome) for outcome in ledger.post([sample_posting(1), sample_posting(2)])] == [Replayed, Posted]


def end_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_server_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    place = DataLocation(tmp_path, f"postgresql://ada:a-secret@/books?host={tmp_path}")
    for write in (True, False):
        with pytest.raises(Unavailable, match="DATABASE_URL") as caught:
            open_ledger(place, write)
        assert "a-secret" not in str(caught.value)
    assert "a-secret" not in repr(place)


@pytest.mark.parametrize("url", ["mysql://ada:a-secret@host/books", "a-secret", "postgresql://ada:a-secret@host:port"])
def test_an_address_that_is_none_is_refused_without_showing_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match="postgresql://USER:PASSWORD@HOST/NAME") as caught:
        open_ledger(DataLocation(tmp_path, url))
    assert "a-secret" not in str(caught.value)
