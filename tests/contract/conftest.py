"""Places for the contract suites: the same tests run on SQLite and on a real PostgreSQL of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of the test run, without fsync: these suites cut no power."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DataLocation]:
    """An empty place: a folder, and on PostgreSQL a database of the test's own. For catalogue and ledger alike."""
    if request.param == "sqlite":
        yield DataLocation(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.new_database()
    yield DataLocation(tmp_path, url)
    server.drop_database(url)
