"""Every command of the runbooks is run: the blocks marked `sh` of a page make one script, in order, as an operator
types them. It runs, with stub models, on what the page of the first start left; what it leaves itself is checked.

Replaced are the attributor's address, by one with a free port, and what a page calls $WORK, $OWNER and so on.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.auth.secret_files import own_environment
from gmvaluator.catalogue.rights import ERASED_NAME
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.ids import OwnerId, sha256_hex, training_image_id
from gmvaluator.ledger.results import Totals
from gmvaluator.ledger.store import open_ledger
from gmvaluator.samples import sample_folder
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer, find_binaries
from gmvaluator.testing.postings import sample_posting
from tests.support.processes import processes_of
from tests.support.programs import gmvaluator
from tests.support.supervised import free_port

PAGES = Path(__file__).parents[2] / "docs" / "guide" / "runbooks"
BLOCK = re.compile(r"^( *)```(sh[^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:50051"
WORKS = 60
START = (
    f"gmvaluator serve --address {ADDRESS} & echo $! > attributor.pid\n"
    f"gmvaluator health --server {ADDRESS} --wait 120\n"
)
TRAP = "trap 'kill $(cat attributor.pid) 2> /dev/null || true' EXIT\n"
END = "kill $(cat attributor.pid); wait\n"


def blocks(page: str, kind: str = "sh") -> list[str]:
    """The page's blocks of a kind, without the indentation of the list they stand in."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found = [(one[1], one[0], one[2]) for one in BLOCK.findall(text)]
    return [re.sub(f"^{indent}", "", body, flags=re.MULTILINE) for info, indent, body in found if info == kind]


@dataclass(frozen=True)
class Machine:
    """A folder as an operator has it, and what the page's names stand for."""

    folder: Path
    names: dict[str, str]

    @property
    def data(self) -> Path:
        return self.folder / "gmvaluator-data"

    def run(self, script: str) -> str:
        """With the product's own command in the path; what it printed."""
        programs = self.folder.parent / f"{self.folder.name}-bin"
        programs.mkdir(exist_ok=True)
        command = programs / "gmvaluator"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gmvaluator "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        environment = {**own_environment(), **self.names, "GMV_PROFILE": "stub", "GMV_POLICY": "paper@1"}
        environment["PATH"] = os.pathsep.join([str(programs), str(find_binaries()), os.environ["PATH"]])
        script = script.replace(ADDRESS, f"127.0.0.1:{free_port()}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run_page(self, page: str, serving: bool = True) -> str:
        """All its blocks, with an attributor running if `serving`; it ends with them, however they end."""
        return self.run(TRAP + (START if serving else "") + "\n".join(blocks(page)) + END)

    def totals(self) -> Totals:
        with open_ledger(self.data) as ledger:
            return ledger.totals()

    def owner_name(self) -> str:
        """What is shown for $OWNER."""
        with open_catalogue(self.data) as catalogue:
            (name,) = catalogue.display_names([OwnerId(UUID(self.names["OWNER"]))]).values()
            return name

    def points(self, *words: str) -> int:
        return int(gmvaluator("index", "info", "--data", self.data, *words)["points"])


def lay_out(folder: Path, sample: Path) -> None:
    """Pictures with a manifest, and generated images."""
    shutil.copytree(sample, folder / "pictures")
    manifest = folder / "pictures" / "manifest.csv"
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines[: WORKS + 1]), encoding="utf-8")
    images = sorted(sample_folder("generated").glob("*.webp"))
    for name, image in zip(("out.png", "another.png"), images, strict=False):
        shutil.copyfile(image, folder / name)


@pytest.fixture(scope="module")
def started(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which the page of the first start was gone through; copy it before changing it."""
    folder = tmp_path_factory.mktemp("started") / "machine"
    folder.mkdir()
    lay_out(folder, sample)
    machine = Machine(folder, {})
    machine.run_page("first-start.md", serving=False)
    return machine


@pytest.fixture
def machine(started: Machine, tmp_path: Path) -> Iterator[Machine]:
    """One of the test's own, without tokens. It names the work that earned most of the first image, and its owner."""
    folder = Path(shutil.copytree(started.folder, tmp_path / "machine"))
    (folder / "gmvaluator-data" / "tokens.json").unlink()
    (folder / "attributor.pid").unlink()
    with open_ledger(folder / "gmvaluator-data") as ledger:
        (posting,) = ledger.every_posting()
    lines = [one for one in posting.entries if one.account.startswith(OWNER_PREFIX)]
    line = max(lines, key=lambda one: one.amount_micros)
    hashes = {str(training_image_id(one)): one for one in map(file_sha256, (folder / "pictures").rglob("*.webp"))}
    names = {
        "GENERATION": posting.header.generation_id,
        "OWNER": line.account.removeprefix(OWNER_PREFIX),
        "WORK": str(line.training_image_id),
        "WORK_KEY": str(line.training_image_id),
        "WORK_SHA256": hashes[str(line.training_image_id)],
    }
    yield Machine(folder, names)
    assert not processes_of(tmp_path)


def file_sha256(path: Path) -> str:
    return sha256_hex(path.read_bytes())


def test_every_page_is_listed_and_says_what_was_not_tested() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in PAGES.glob("*.md") if path.name != "README.md")
    assert [name for name in pages if f"]({name})" not in index] == []
    assert sorted(CHECKS) == [name for name in pages if name != "first-start.md"]
    for name in pages:
        assert blocks(name), f"{name} has nothing that is run"
        assert "**Not tested**" in " ".join((PAGES / name).read_text(encoding="utf-8").split()), name


def test_first_start(started: Machine) -> None:
    totals = started.totals()
    assert (totals.postings, totals.reconciles, started.points()) == (1, True, WORKS)
    assert not processes_of(started.folder)


def after_upgrade(machine: Machine, output: str) -> None:
    assert machine.totals().postings == 2
    assert machine.points("--collection", "works-2") == WORKS


def after_restore(machine: Machine, output: str) -> None:
    assert machine.totals().postings == 1
    assert machine.points() == WORKS
    assert machine.owner_name() != ERASED_NAME
    assert not (machine.data / "thumbnails").exists()


def after_lost_index(machine: Machine, output: str) -> None:
    assert machine.totals().postings == 2
    assert machine.points() == WORKS


def after_full_disk(machine: Machine, output: str) -> None:
    assert machine.totals().postings == 1
    assert not (machine.data / "left-out").exists()


def after_rotation(machine: Machine, output: str) -> None:
    assert "refused, as it should be" in output
    assert "the old certificate is gone" in output
    assert machine.totals().postings == 2


def after_erasing(machine: Machine, output: str) -> None:
    assert machine.owner_name() == ERASED_NAME
    assert 0 < machine.points() < WORKS
    assert machine.names["OWNER"] in (machine.folder / "receipt.txt").read_text(encoding="utf-8")
    assert machine.totals().postings == 1


def after_recall(machine: Machine, output: str) -> None:
    assert "settings: pq-x16" in output
    assert "settings: scalar" in output
    assert machine.totals().postings == 2


def after_gaming(machine: Machine, output: str) -> None:
    totals = machine.totals()
    assert totals.held_micros == 0
    assert totals.reconciles
    assert machine.points() == WORKS - 1


CHECKS: dict[str, Callable[[Machine, str], None]] = {
    "upgrade.md": after_upgrade,
    "backup-and-restore.md": after_restore,
    "lost-qdrant-node.md": after_lost_index,
    "full-disk.md": after_full_disk,
    "keys-and-certificates.md": after_rotation,
    "erasing-an-owner.md": after_erasing,
    "recall-below-floor.md": after_recall,
    "suspected-gaming.md": after_gaming,
}


ENDED = {"full-disk.md"}
"""Pages that begin with an attributor that has ended by itself."""


@pytest.mark.parametrize("page", CHECKS)
def test_a_page_does_what_it_says(page: str, machine: Machine) -> None:
    before = machine.totals()
    output = machine.run_page(page, serving=page not in ENDED)
    CHECKS[page](machine, output)
    after = machine.totals()
    assert after.reconciles
    assert after.postings >= before.postings, "credits were lost"


def test_a_database_is_restored_from_its_dump(tmp_path: Path) -> None:
    save, restore = blocks("backup-and-restore.md", "sh postgresql")
    with PostgresServer() as server:
        url, restored = server.new_database(), server.new_database()
        with (
            open_ledger(DataLocation(tmp_path, url), write=True) as ledger,
            open_catalogue(DataLocation(tmp_path, url), write=True),
        ):
            ledger.post([sample_posting(number) for number in range(5)])
            head = ledger.totals().head
        folder = tmp_path / "machine"
        (folder / "backup").mkdir(parents=True)
        machine = Machine(folder, {"DATABASE_URL": url, "RESTORED_URL": restored})
        machine.run(f"{save}\n{restore}")
        with open_ledger(DataLocation(tmp_path, restored)) as ledger:
            assert ledger.totals().head == head
            assert ledger.verify().ok
