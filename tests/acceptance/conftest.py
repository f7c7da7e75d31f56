"""Programs as their users run them: real processes, real models, a real index of part of the sample."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmvaluator.client.sync import AttributorClient
from gmvaluator.samples import sample_folder
from tests.support.programs import Attributor, gmvaluator

WORKS = 150
MODEL_VERSION = "demo-1"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every seventh work of the sample, with its manifest."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "images").mkdir()
    whole = sample_folder("openclipart")
    with (whole / "manifest.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)[::7][:WORKS]
    for row in rows:
        shutil.copyfile(whole / row["file_name"], folder / row["file_name"])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="session")
def indexed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the sample indexed and one generator registered; copy it before writing to it."""
    data = tmp_path_factory.mktemp("indexed") / "data"
    gmvaluator("index", "add", sample, "--data-set", "sample", "--data", data)
    gmvaluator("generators", "add", MODEL_VERSION, "--data-set", "sample", "--data", data)
    return data


@pytest.fixture
def data(indexed: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own."""
    return Path(shutil.copytree(indexed, tmp_path / "data"))


@pytest.fixture(scope="module")
def attributor(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attributor]:
    """A running attributor, shared by a module's tests: use generation ids of your own."""
    data = Path(shutil.copytree(indexed, tmp_path_factory.mktemp("served") / "data"))
    with Attributor(data) as running:
        yield running


@pytest.fixture
def client(attributor: Attributor) -> Iterator[AttributorClient]:
    with AttributorClient(attributor.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """The generated images of the sample."""
    return [path.read_bytes() for path in sorted(sample_folder("generated").glob("*.webp"))]
