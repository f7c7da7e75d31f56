"""Programs as their users run them: real processes, real models, a real index of part of the sample."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gmvaluator.client.sync import AttributorClient
from gmvaluator.files import FileLock
from gmvaluator.samples import sample_folder
from tests.support.processes import processes_of
from tests.support.programs import Attributor, gmvaluator

WORKS = 150
MODEL_VERSION = "demo-1"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def sample(shared: Path) -> Path:
    """Every seventh work of the sample, with its manifest."""
    return made_once(shared / "sample", _copy_sample)


@pytest.fixture(scope="session")
def indexed(shared: Path, sample: Path) -> Path:
    """A data folder with the sample indexed and one generator registered; copy it before writing to it."""

    def index(data: Path) -> None:
        gmvaluator("index", "add", sample, "--data-set", "sample", "--data", data)
        gmvaluator("generators", "add", MODEL_VERSION, "--data-set", "sample", "--policy", "paper@1", "--data", data)

    return made_once(shared / "indexed", index)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, which the first worker process makes while the others wait: embedding takes half a minute."""
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            assert not processes_of(unfinished)  # the engine writes until it ends, a moment after its last user
            unfinished.rename(folder)
    return folder


def _copy_sample(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
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
