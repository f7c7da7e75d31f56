"""Finding owners: a search holds one connection at a time, and an owner finds themselves."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from dashboard.app import application
from dashboard.figures.data import Sources, open_sources
from dashboard.pages import search
from dashboard.server import wired
from dashboard.web.settings import DashboardSettings
from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.store import Catalogue
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting
from tests.support.scenes import owner_named, record, work

OWNERS = search.FOUND + 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> DataLocation:
    found = DataLocation(tmp_path_factory.mktemp("data"))
    record(found, *(work(number, f"owner-{number:02}") for number in range(OWNERS)))
    with open_ledger(found, write=True) as ledger:
        ledger.post([sample_posting(1)])
    return found


@pytest.fixture
def sources(place: DataLocation) -> Iterator[Sources]:
    with open_sources(place) as found:
        yield found


def test_an_owner_finds_themselves_though_many_are_named_alike(sources: Sources, place: DataLocation) -> None:
    last = owner_named(place, f"owner-{OWNERS - 1:02}")
    told = [{"owner_id": str(last), "name": f"Owner-{OWNERS - 1} <Artist>"}]
    assert len(search._owners(sources, "artist", None)) == search.FOUND
    for query in ("ARTIST", str(last), f"owner:{last}"):
        assert search._owners(sources, query, last) == told
    for query in ("Owner-00", str(owner_named(place, "owner-00"))):
        assert search._owners(sources, query, last) == []


def test_a_search_of_names_holds_no_connection_while_it_takes_another(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight at once would hold the whole pool, and wait for each other's second one."""
    held: list[int] = []
    display_names = Catalogue.display_names

    def watched(catalogue: Catalogue, ids: Any) -> Any:
        held.append(catalogue._engine.pool.checkedout())  # type: ignore[attr-defined]
        return display_names(catalogue, ids)

    monkeypatch.setattr(CatalogueReader, "display_names", watched)
    assert len(search._owners(sources, "owner-07", None)) == 1
    assert held == [0]


def test_the_catalogue_is_not_read_by_the_thread_that_answers_all(
    place: DataLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def generators(_: Catalogue) -> list[Any]:
        threads.append(threading.current_thread().name)
        return []

    monkeypatch.setattr(Catalogue, "generators", generators)
    with wired(DashboardSettings(place, server="127.0.0.1:1")) as parts:
        page = TestClient(application(parts), base_url="http://127.0.0.1").get("/search")
    assert page.status_code == 200
    assert threads
    assert all(name.startswith("asyncio_") for name in threads)
