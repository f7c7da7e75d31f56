"""A client of another implementation: Node's grpc-js, which loads the contract at run time."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.integration.hostile.conftest import GOOD, MODEL_VERSION, Target

HERE = Path(__file__).parent
PROTOS = HERE.parents[2] / "proto"
PACKAGES = ("@grpc/grpc-js@1.14", "@grpc/proto-loader@0.8")


@pytest.fixture(scope="module")
def modules() -> Path:
    """A folder with grpc-js, kept between runs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: this client is tried where they are")
    folder = Path(tempfile.gettempdir()) / "gmvaluator-tests-node"
    if not (folder / "done").exists():
        folder.mkdir(exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        if done.returncode != 0:
            pytest.skip(f"npm could not install grpc-js, which needs a package registry: {done.stderr[-200:]}")
        (folder / "done").touch()
    return folder


def test_nodes_client_gets_stages_credits_replays_and_refusals(target: Target, modules: Path, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(GOOD)
    words: list[str | Path] = [modules, PROTOS, target.address, MODEL_VERSION, tmp_path / "image.png"]
    done = subprocess.run(
        ["node", HERE / "node_client.js", *words], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["stages"] == ["STAGE_RECALLED", "STAGE_RERANKED", "STAGE_FINAL"]
    assert result["credits_micros"] == result["issued_micros"] > 0
    assert result["replayed"] == [True]
    assert result["refused"] == "INVALID_ARGUMENT"
    assert result["balances"] > 0
