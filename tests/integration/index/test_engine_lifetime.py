"""The engine at a known port with a known key: it stays without users, and lets in nobody who has another key."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.errors import PreconditionFailed
from gmvaluator.index.engine.launcher import Contact
from gmvaluator.index.engine.server import KEY_VARIABLE
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points
from tests.support.supervised import free_port

KEY = "a-key-of-the-test-alone"
START_S = 60


def engine(folder: Path, port: int | str, key: str = KEY) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gmvaluator.index.engine", str(folder), str(port)]
    environment = {**own_environment(), KEY_VARIABLE: key}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[str]:
    """Its URL."""
    port = free_port()
    with engine(tmp_path / "qdrant", port) as process:
        deadline = time.monotonic() + START_S
        while Contact.read(tmp_path / "qdrant") is None:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


async def test_it_serves_those_with_the_key_and_stays_without_users(standing: str) -> None:
    with closing(open_store(standing, api_key=KEY)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(20))
    await asyncio.sleep(0.6)  # an engine of a lease would have ended
    with closing(open_store(standing, api_key=KEY)) as store:
        assert store.info().points == 20
    for wrong in ("another-key", "", None):
        with closing(open_store(standing, api_key=wrong)) as store:
            with pytest.raises(PreconditionFailed, match="QDRANT_API_KEY"):
                store.info()
        search = open_search(standing, api_key=wrong)
        with pytest.raises(PreconditionFailed, match="QDRANT_API_KEY"):
            await search.info()
        await search.close()


def test_programs_that_name_its_folder_share_it(standing: str, tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "qdrant")) as store:
        store.create(EXAMPLE_IDENTITY)
        assert store.endpoint.api_key == KEY


@pytest.mark.parametrize(("port", "key"), [("no port", KEY), ("0", KEY), ("70000", KEY), (6334, "short")])
def test_it_starts_at_no_other_port_and_with_no_weak_key(tmp_path: Path, port: int | str, key: str) -> None:
    with engine(tmp_path, port, key) as process:
        _, problem = process.communicate(timeout=60)
    assert process.returncode == 2
    assert ("usage:" in problem) != (KEY_VARIABLE in problem)
    assert key not in problem
    assert not list(tmp_path.iterdir())
