"""An operator's work with an index on a Qdrant server, by the product's own commands, from the first image on."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gmvaluator.auth.secret_files import DATABASE_URL, QDRANT_API_KEY, own_environment
from gmvaluator.client.sync import AttributorClient
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from tests.support.index_places import IndexPlace, new_name
from tests.support.programs import Attributor, gmvaluator, run
from tests.support.qdrant_server import URL_VARIABLE, QdrantServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

PICTURES, OWNERS, WORKERS = 72, 3, 4
MODEL_VERSION = "demo-1"
STUB = ("--profile", "stub")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pictures, which are one shard each, with their owners."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["file_name,title,owner_id"]
    for number in range(PICTURES):
        name = f"part-{number % WORKERS}/{number:02}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 16), (number * 3, 255 - number * 3, number * 7 % 256)).save(folder / name)
        rows.append(f"{name},Title {number:02},owner-{number % OWNERS}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@dataclass
class Operator:
    """One operator's data folder, database and collection."""

    data: Path
    place: IndexPlace
    environment: dict[str, str]

    def index(self, command: str, *words: object) -> Any:
        """`gmvaluator index COMMAND WORDS` for the collection, which has to succeed; its data."""
        return gmvaluator("index", command, *words, *self.options, environment=self.environment)

    def remove(self, *words: object) -> Any:
        """`gmvaluator index remove WORDS`, which concerns every collection; its data."""
        return gmvaluator("index", "remove", *words, "--yes", "--data", self.data, environment=self.environment)

    @property
    def options(self) -> tuple[object, ...]:
        return ("--data", self.data, "--collection", self.place.collection)

    def add(self, source: Path, *words: object) -> Any:
        return self.index("add", source, "--data-set", "set", *STUB, *words)

    def keys(self) -> set[str]:
        store = self.place.open_store()
        try:
            return {str(point.payload["key"]) for point in store.scan()}
        finally:
            store.close()


@pytest.fixture
def operator(qdrant_server: QdrantServer, tmp_path: Path) -> Iterator[Operator]:
    place = IndexPlace(qdrant_server.url, new_name(), qdrant_server.api_key or None)
    environment = {URL_VARIABLE: qdrant_server.url}
    if qdrant_server.api_key:
        environment[QDRANT_API_KEY] = qdrant_server.api_key
    with PostgresServer() as postgres:
        environment[DATABASE_URL] = postgres.new_database()
        yield Operator(tmp_path / "data", place, environment)
        place.clear()


def test_an_index_lives_on_a_server_from_the_first_image_to_the_last_purge(
    operator: Operator, pictures: Path, tmp_path: Path
) -> None:
    added = operator.add(pictures)
    assert (added["points"], added["collection"]["indexed_points"]) == (PICTURES, PICTURES)
    assert operator.add(pictures)["duplicates"] == PICTURES
    verified = operator.index("verify", "--k", 10, "--queries", 30)
    assert verified["figures"]["recall_at_10"] >= 0.98
    grouped = operator.index("group", "--threshold", "0.05")
    assert (grouped["looked_at"], grouped["stopped"]) == (PICTURES, False)
    rebuilt = operator.index("rebuild", "--quantisation", "scalar", "--hnsw-m", 24)
    assert (rebuilt["metadata"]["quantisation"]["name"], rebuilt["points"]) == ("scalar", PICTURES)
    removed = operator.remove("--key", "part-0/00.png", "--owner", "owner-1", "--purge")
    assert removed["purged"]["works"] == removed["works"] == 1 + PICTURES // OWNERS
    left = PICTURES - 1 - PICTURES // OWNERS
    assert len(operator.keys()) == operator.index("info")["points"] == left
    assert operator.index("export", tmp_path / "export")["rows"] == left
    copy = Operator(tmp_path / "other", IndexPlace(operator.place.location, new_name(), operator.place.api_key),
                    {**operator.environment, DATABASE_URL: ""})  # fmt: skip
    try:
        assert copy.index("add", tmp_path / "export", "--data-set", "set", *STUB)["points"] == left
        assert copy.keys() == operator.keys()
    finally:
        copy.place.clear()


def test_four_workers_fill_one_collection(operator: Operator, pictures: Path) -> None:
    command = [sys.executable, "-m", "gmvaluator", "index", "add", str(pictures), "--data-set", "set", *STUB]
    command += ["--bulk", "--no-group", *map(str, operator.options), "--shards"]
    workers = [
        subprocess.Popen(
            [*command, f"{number}/{WORKERS}"],
            env={**own_environment(), **operator.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(WORKERS)
    ]
    for worker in workers:
        _, message = worker.communicate(timeout=300)
        assert worker.returncode == 0, message
    operator.index("group", "--threshold", "0.05")
    info = operator.index("info")
    assert (info["points"], info["indexed_points"], info["ready"]) == (PICTURES, PICTURES, True)
    assert len(operator.keys()) == PICTURES


def test_two_attributors_serve_one_collection(operator: Operator, pictures: Path) -> None:
    operator.add(pictures)
    generator = ("generators", "add", MODEL_VERSION, "--data-set", "set", "--policy", "paper@1")
    gmvaluator(*generator, *operator.options, environment=operator.environment)
    image = (pictures / "part-1" / "05.png").read_bytes()
    answers: dict[str, int] = {}
    with (
        Attributor(operator.data, *STUB, environment=operator.environment) as first,
        Attributor(operator.data, *STUB, environment=operator.environment) as second,
    ):
        for attributor in (first, second):
            with AttributorClient(attributor.address) as client:
                for number in range(10):
                    name = f"{attributor.address}:{number}"
                    *_, final = client.attribute(image, name, MODEL_VERSION)
                    answers[name] = final.issued_micros
                    assert final.contributors
        assert (first.stop(), second.stop()) == (0, 0)
    with open_ledger(DataLocation(operator.data, operator.environment[DATABASE_URL])) as ledger:
        stored = {one.header.generation_id: one.header.issued_micros for one in ledger.every_posting()}
        assert ledger.verify().ok
    assert stored == answers


def test_a_wrong_key_and_a_server_that_is_away_are_said_in_one_line(operator: Operator) -> None:
    cases = {"is it running": {**operator.environment, URL_VARIABLE: "http://127.0.0.1:1"}}
    if operator.place.api_key:
        cases["set QDRANT_API_KEY"] = {**operator.environment, QDRANT_API_KEY: "not-this-one"}
    for advice, environment in cases.items():
        refused = run("index", "info", *operator.options, environment=environment)
        assert refused.returncode in (1, 2)
        assert advice in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
