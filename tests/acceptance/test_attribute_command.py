"""`gmvaluator attribute`: what a person sees, and what a mistake costs: one line and exit code 2."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from gmvaluator.samples import sample_folder
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.programs import Attributor, run


@pytest.fixture
def image() -> Path:
    return min(sample_folder("generated").glob("*.webp"))


def attribute(attributor: Attributor, *words: object, model_version: str = MODEL_VERSION) -> tuple[int, str, str]:
    done = run("attribute", "--server", attributor.address, "--model-version", model_version, *words)
    return done.returncode, done.stdout, done.stderr


def test_the_stages_are_printed_with_artist_distance_and_credit(attributor: Attributor, image: Path) -> None:
    code, output, _ = attribute(attributor, image)
    assert code == 0
    assert output.index("recalled") < output.index("re-ranked") < output.index("final")
    assert "distance" in output
    assert "credit 0." in output
    _, again, _ = attribute(attributor, image)
    assert "posted before" in again


def test_json_is_one_object_a_stage_whose_head_can_be_verified(attributor: Attributor, image: Path) -> None:
    code, output, _ = attribute(attributor, image, "--generation-id", "json:1", "--json")
    assert code == 0
    *_, final = [json.loads(line) for line in output.splitlines()]
    assert final["stage"] == "STAGE_FINAL"
    assert final["replayed"] is False
    assert sum(one["credit_micros"] for one in final["contributors"]) == final["issued_micros"]
    head = f"{final['sequence']}:{final['head_hash']}"
    assert run("ledger", "verify", "--data", attributor.data, "--head", head).returncode == 0


def test_a_preview_says_that_nothing_was_posted(attributor: Attributor, image: Path) -> None:
    code, output, _ = attribute(attributor, image, "--preview")
    assert code == 0
    assert "nothing posted" in output


def bad_files(folder: Path) -> dict[str, Path]:
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "PNG")
    contents = {
        "text": b"no image",
        "empty": b"",
        "truncated": noise.getvalue()[:-400],
        "too many bytes": b"\xff\xd8" + bytes(22 * 1024 * 1024),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.new("1", (5_001, 5_000)).save(folder / "too many pixels", "PNG")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["text", "empty", "truncated", "too many bytes", "too many pixels"])
def test_a_bad_file_is_one_line_and_exit_code_2(attributor: Attributor, tmp_path: Path, name: str) -> None:
    code, output, errors = attribute(attributor, bad_files(tmp_path)[name])
    assert code == 2
    assert "credit" not in output
    assert len(errors.strip().splitlines()) == 1


def test_an_unknown_generator_and_a_used_id_are_one_line_and_exit_code_2(attributor: Attributor, image: Path) -> None:
    code, _, errors = attribute(attributor, image, "--generation-id", "unknown:1", model_version="nobody-1")
    assert (code, "generators add" in errors) == (2, True)
    assert attribute(attributor, image, "--generation-id", "used:1")[0] == 0
    other = max(sample_folder("generated").glob("*.webp"))
    code, _, errors = attribute(attributor, other, "--generation-id", "used:1")
    assert (code, "new generation_id" in errors) == (2, True)


def test_an_attributor_that_is_not_there_is_exit_code_1(image: Path) -> None:
    done = run("attribute", "--server", "127.0.0.1:9", "--model-version", "x", image)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
