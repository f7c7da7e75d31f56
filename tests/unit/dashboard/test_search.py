"""Tests of the search for owners: it holds one connection at a time, and owners find themselves."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dashboard.app import application
from dashboard.figures.data import DataAccess, open_data
from dashboard.pages import search
from dashboard.server import wired
from dashboard.web.settings import DashboardSettings
from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.store import Catalogue
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting
from tests.support.scenes import owner_named, record, work

OWNERS = search.MAX_RESULTS + 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> DataLocation:
    location = DataLocation(tmp_path_factory.mktemp("data"))
    record(location, *(work(number, f"owner-{number:02}") for number in range(OWNERS)))
    with open_ledger(location, write=True) as ledger:
        ledger.post([sample_posting(1)])
    return location


@pytest.fixture
def data(place: DataLocation) -> Iterator[DataAccess]:
    with open_data(place) as opened:
        yield opened


def test_an_owner_finds_themselves_among_many_of_a_similar_name(data: DataAccess, place: DataLocation) -> None:
    last = owner_named(place, f"owner-{OWNERS - 1:02}")
    expected = [{"owner_id": str(last), "name": f"Owner-{OWNERS - 1} <Artist>"}]
    assert len(search.find_owners(data, "artist", None)) == search.MAX_RESULTS
    for query in ("ARTIST", str(last), f"owner:{last}"):
        assert search.find_owners(data, query, last) == expected
    for query in ("Owner-00", str(owner_named(place, "owner-00"))):
        assert search.find_owners(data, query, last) == []


def test_a_search_of_names_holds_no_connection_while_it_takes_another(
    data: DataAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight searches at once would hold the whole pool, and wait for each other's second connection."""
    held: list[int] = []
    display_names = Catalogue.display_names

    def watched(catalogue: Catalogue, ids: Any) -> Any:
        held.append(catalogue._engine.pool.checkedout())  # type: ignore[attr-defined]
        return display_names(catalogue, ids)

    monkeypatch.setattr(CatalogueReader, "display_names", watched)
    assert len(search.find_owners(data, "owner-07", None)) == 1
    assert held == [0]


def test_the_catalogue_is_not_read_on_the_event_loop(place: DataLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def generators(_: Catalogue) -> list[Any]:
        threads.append(threading.current_thread().name)
        return []

    monkeypatch.setattr(Catalogue, "generators", generators)
    with wired(DashboardSettings(place, server="127.0.0.1:1")) as context:
        page = TestClient(application(context), base_url="http://127.0.0.1").get("/search")
    assert page.status_code == 200
    assert threads
    assert all(name.startswith("asyncio_") for name in threads)


@pytest.mark.parametrize(("query", "sequence"), [("7001", 2), ("0003", 3), ("2", 4), ("1", 1), ("4", 4), ("job-7", 5)])
def test_a_search_finds_a_generation_by_its_id_before_a_posting_by_its_number(
    tmp_path: Path, query: str, sequence: int
) -> None:
    location = DataLocation(tmp_path)
    with open_ledger(location, write=True) as ledger:
        ledger.post([sample_posting(1)])
        ledger.post([sample_posting(n, generation=id_) for n, id_ in enumerate(("7001", "0003", "2", "job-77"), 2)])
    with wired(DashboardSettings(location)) as context:
        client = TestClient(application(context), base_url="http://127.0.0.1", follow_redirects=False)
        assert client.get("/search", params={"q": query}).headers["location"] == f"/generations/{sequence}"
        assert 'href="/generations/2"' in client.get("/generations/4").text


@pytest.mark.parametrize("path", ["/", "/overview", "/search", "/health", "/metrics", "/operations", "/live/overview"])
def test_a_head_request_is_answered_as_a_get_is(place: DataLocation, path: str) -> None:
    with wired(DashboardSettings(place)) as context:
        client = TestClient(application(context), base_url="http://127.0.0.1", follow_redirects=False)
        answer = client.head(path)
    assert answer.status_code < 400
    assert answer.content == b""
