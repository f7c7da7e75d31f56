"""Databases of released versions are upgraded on both engines, without changing their content.

`released/PART-REVISION.ENGINE.sql` holds a filled database of each released schema; add one with every release.
"""

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import open_ledger
from gmvaluator.ledger.verification import replay
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting, sample_work

RELEASED = Path(__file__).parents[1] / "released"
REVISIONS = sorted({path.name.partition(".")[0].rpartition("-")[2] for path in RELEASED.glob("ledger-*.sql")})


@pytest.fixture(params=REVISIONS)
def released(request: pytest.FixtureRequest, place: DataLocation) -> DataLocation:
    """A data location filled by a released version: three works by two owners, three postings."""
    engine = "postgresql" if place.database_url else "sqlite"
    for part in ("catalogue", "ledger"):
        load(place, part, (RELEASED / f"{part}-{request.param}.{engine}.sql").read_text(encoding="utf-8"))
    (place.folder / "keys").mkdir()
    for name, key in json.loads((RELEASED / f"keys-{request.param}.json").read_text()).items():
        (place.folder / "keys" / name).write_bytes(bytes.fromhex(key))
    return place


def load(place: DataLocation, part: str, script: str) -> None:
    if place.database_url:
        with psycopg.connect(place.database_url) as server:
            server.execute(script.encode())
        return
    file = sqlite3.connect(place.folder / f"{part}.sqlite")
    file.executescript(script)
    file.close()


def test_a_released_ledger_is_upgraded_without_loss(released: DataLocation) -> None:
    with open_ledger(released, write=True) as ledger:
        assert ledger.verify().ok
        assert ledger.totals().reconciles
        assert all(replay(posting).equal for posting in ledger.every_posting())
        again = ledger.post([sample_posting(number) for number in range(1, 5)])
        assert [type(outcome) for outcome in again] == [Replayed, Replayed, Replayed, Posted]
        assert ledger.verify().ok


def test_a_released_catalogue_is_upgraded_without_loss(released: DataLocation) -> None:
    with open_catalogue(released, write=True) as catalogue:
        assert (catalogue.counts().works, catalogue.counts().owners) == (3, 2)
        assert catalogue.generator("demo-1").data_sets == ("paintings",)
        cards = catalogue.works([sample_work(number) for number in range(3)], datetime(2026, 1, 31, tzinfo=UTC))
        paid = [cards[sample_work(number)].beneficiaries[0].display_name for number in range(3)]
        assert paid == ["(owner unknown)", "Owner 1", "Owner 0"]


def test_a_reader_asks_for_a_writer_to_upgrade_it(released: DataLocation) -> None:
    with pytest.raises(PreconditionFailed, match="gmvaluator serve"):
        open_ledger(released)
    open_ledger(released, write=True).close()
    with open_ledger(released) as ledger:
        assert ledger.totals().postings == 3
