"""`index add --engine ray` with two local workers: counts, points and resuming as with threads."""

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.index.opening import open_store

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'gmvaluator[ray]'"
    ),
    pytest.mark.timeout(900),
]

TARS, IMAGES = 4, 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four tar shards of pictures with owners; in each, one opts out, one is a copy and one is broken."""
    folder = tmp_path_factory.mktemp("tars")
    for tar in range(TARS):
        with tarfile.open(folder / f"{tar:05}.tar", "w") as file:
            for number in range(IMAGES):
                key, metadata = f"{tar:02}{number:03}", {"owner_id": f"owner {number % 3}", "noai": number == 7}
                add(file, f"{key}.png", picture(tar, 0 if number == 9 else number) if number != 11 else b"broken")
                add(file, f"{key}.json", json.dumps(metadata).encode())
    return folder


def picture(tar: int, number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (20, 20), (tar * 50, number * 5, 99)).save(data, "PNG")
    return data.getvalue()


def add(file: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    file.addfile(info, io.BytesIO(data))


def command(pictures: Path, data: Path, *words: str, profile: str = "stub") -> list[str]:
    add = [sys.executable, "-m", "gmvaluator", "index", "add", str(pictures), "--data", str(data)]
    return [*add, "--data-set", "set", "--profile", profile, "--no-group", "--json", *words]


def index(pictures: Path, data: Path, *words: str, profile: str = "stub") -> Any:
    done = subprocess.run(
        command(pictures, data, *words, profile=profile),
        capture_output=True, text=True, check=False, env=own_environment(), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


RAY = ("--engine", "ray", "--ray-workers", "2")
COUNTS = ("read", "points", "duplicates", "opt_outs", "rejects", "removed")


def stored(data: Path) -> dict[str, Any]:
    store = open_store(data / "index")
    try:
        return {
            str(point.training_image_id): (point.payload, point.recall.tobytes())
            for point in store.scan(with_vectors=True)
        }
    finally:
        store.close()


def test_it_does_what_the_threads_do(pictures: Path, tmp_path: Path) -> None:
    threads, ray = tmp_path / "threads", tmp_path / "ray"
    expected, report = index(pictures, threads), index(pictures, ray, *RAY)
    assert [report[name] for name in COUNTS] == [expected[name] for name in COUNTS]
    assert [report[name] for name in COUNTS] == [160, 148, 4, 4, 4, 0]
    by_threads, by_ray = stored(threads), stored(ray)
    assert by_threads.keys() == by_ray.keys()
    assert [vector for _, vector in by_threads.values()] == [by_ray[key][1] for key in by_threads]
    assert len(list((ray / "thumbnails").rglob("*.webp"))) == 148
    with open_catalogue(threads) as first, open_catalogue(ray) as second:
        assert first.counts() == second.counts()
    again = index(pictures, ray, *RAY)
    assert [again[name] for name in COUNTS] == [160, 0, 152, 4, 4, 0]


def test_a_run_that_was_killed_goes_on_where_it_was(pictures: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    slow = "stub:image_ms=150"
    with subprocess.Popen(
        command(pictures, data, *RAY, profile=slow), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=own_environment(),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not list((data / "thumbnails").rglob("*.webp")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    report = index(pictures, data, *RAY)
    assert report["reconciles"]
    assert (report["read"], report["points"] + report["duplicates"]) == (160, 152)
    assert len(stored(data)) == 148
