"""A running attributor while works are removed and purged: it goes on, and a removed work is paid no more."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.client.sync import AttributorClient
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.ledger.store import open_ledger
from tests.support.live_files import stored_files
from tests.support.processes import processes_of
from tests.support.programs import Attributor, gmvaluator


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Sixty pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(60):
        Image.new("RGB", (16, 16), (number * 4, 255 - number * 3, number)).save(folder / f"canary-{number:02}.png")
    return folder


def test_it_serves_on_and_pays_a_removed_work_no_more(pictures: Path, tmp_path: Path) -> None:
    data, wanted = tmp_path / "data", (pictures / "canary-30.png").read_bytes()
    removed = str(training_image_id(sha256_hex(wanted)))
    gmvaluator("index", "add", pictures, "--data", data, "--data-set", "set", "--profile", "stub")
    gmvaluator("generators", "add", "demo-1", "--data-set", "set", "--policy", "paper@1", "--data", data)
    with Attributor(data, "--profile", "stub") as attributor, AttributorClient(attributor.address) as client:
        *_, before = client.attribute(wanted, "before", "demo-1")
        assert removed in {one.training_image_id for one in before.contributors}
        command = [sys.executable, "-m", "gmvaluator", "index", "remove", "--key", "canary-30.png", "--purge", "--yes"]
        with subprocess.Popen(
            [*command, "--data", str(data)], stdout=subprocess.DEVNULL, env=own_environment()
        ) as process:
            asked = 0
            while process.poll() is None:
                *_, final = client.attribute(wanted, f"meanwhile:{asked}", "demo-1")
                assert final.contributors
                asked += 1
        assert process.returncode == 0
        assert asked
        *_, after = client.attribute(wanted, "after", "demo-1")
        assert len(after.contributors) == len(before.contributors)
        assert removed not in {one.training_image_id for one in after.contributors}
        assert attributor.stop() == 0
    assert not processes_of(data)  # the engine writes until it ends, a moment after its last user
    assert not [path for path, content in stored_files(data / "index") if b"canary-30" in content]
    with open_ledger(data) as ledger:
        assert ledger.verify().ok
        assert ledger.totals().reconciles
