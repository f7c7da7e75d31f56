"""Wheel and sdist are built and installed, and the demo runs from the wheel, away from the checkout.

The environment is empty but for the wheel. Its dependencies take minutes and gigabytes to install, so a .pth file lends
it those of the tested environment, without the editable gmvaluator: that one's own .pth is not followed there. That
pip can install the dependencies themselves is what `make setup` shows.
"""

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gmvaluator import __version__
from gmvaluator.auth.secret_files import own_environment
from tests.support.processes import processes_of

ROOT = Path(__file__).parents[2]
WORKS, IMAGES = 12, 2
CARRIED = (
    "gmvaluator/v1/attribution.proto",
    "gmvaluator/models/data/lite.safetensors",
    "gmvaluator/models/data/lite.onnx",
    "gmvaluator/valuation/policies/calibrated@2.toml",
    "gmvaluator/valuation/policies/calibrated@3.toml",
    "gmvaluator/models/data/local-features.safetensors",
    "gmvaluator/examples/openclipart/manifest.csv",
    "dashboard/templates/overview.html",
    "dashboard/static/app.css",
    "evaluation/report/page.html",
    "evaluation/images/recipes.py",
    "evaluation/images/sample.py",
)
LEFT_OUT = ("tests/", "release/", "docs/", "evaluation/bench/", "evaluation/training/", "evaluation/images/make_")


def completed(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without the variables that would lead it to the checkout."""
    environment = {name: value for name, value in own_environment().items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run(command: list[str], folder: Path) -> str:
    """Run a command that must succeed, and return its output."""
    done = completed(command, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def built(source: Path, target: Path, *words: str) -> None:
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), *words, str(source)], target.parent)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    built(ROOT, folder)
    return folder


def wheel_in(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def contents(wheel: Path) -> dict[str, int]:
    """Name to checksum of each file."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


def test_sdist_and_checkout_make_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in dist.iterdir()) == [
        f"gmvaluator-{__version__}-py3-none-any.whl",
        f"gmvaluator-{__version__}.tar.gz",
    ]
    built(ROOT, tmp_path / "direct", "--wheel")
    checksums = contents(wheel_in(dist))
    assert checksums == contents(wheel_in(tmp_path / "direct"))
    assert set(CARRIED) <= checksums.keys()
    assert not [name for name in checksums if name.startswith(LEFT_OUT) or "__pycache__" in name]


def test_the_sdist_carries_what_tests_and_releases_need(dist: Path) -> None:
    with tarfile.open(dist / f"gmvaluator-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
        "deploy/release/audit.py",
        "tests/conftest.py",
    } <= names
    assert not [name for name in names if name.startswith((".venv/", "build/", "gmvaluator-data/"))]


@pytest.fixture(scope="module")
def environment(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    run([*pip, str(wheel_in(dist))], folder.parent)
    packages = Path(run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)), encoding="utf-8")
    return folder / "bin"


def test_the_wheel_is_what_runs(environment: Path, tmp_path: Path) -> None:
    assert run([str(environment / "gmvaluator"), "--version"], tmp_path).strip().endswith(__version__)
    program = (
        "import gmvaluator, indexer, attributor, dashboard, evaluation as e; print(gmvaluator.__file__, e.__file__)"
    )
    for place in run([str(environment / "python"), "-c", program], tmp_path).split():
        assert Path(place).is_relative_to(environment.parent)
        assert not Path(place).is_relative_to(ROOT)


def test_a_benchmark_from_the_wheel_asks_for_a_checkout(environment: Path, tmp_path: Path) -> None:
    done = completed([str(environment / "gmvaluator"), "bench", "serve"], tmp_path)
    assert done.returncode == 2
    assert "checkout of the repository" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_evaluation_is_complete_in_the_wheel(environment: Path, tmp_path: Path) -> None:
    program = "import evaluation.cli, evaluation.benchmarks, evaluation.known_source.run, evaluation.criteria.run"
    program += ", evaluation.counterfactual.section, evaluation.duplicates.run, evaluation.report.html"
    run([str(environment / "python"), "-c", program], tmp_path)


def test_the_demo_runs_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    words = ["demo", "--data", "demo", "--works", str(WORKS), "--images", str(IMAGES), "--json"]
    summary: dict[str, Any] = json.loads(run([str(environment / "gmvaluator"), *words], tmp_path))
    assert (summary["index"]["points"], len(summary["images"])) == (WORKS, IMAGES)
    assert summary["reconciles"]
    assert summary["issued_micros"] > 0
    assert not processes_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
