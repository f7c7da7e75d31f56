"""Profiles are named, pinned and identified without loading a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gmvaluator.errors import MissingWeights, UnknownProfile
from gmvaluator.ids import sha256_hex
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.process_setup import raise_malloc_thresholds
from gmvaluator.models.profiles import known_profiles, load_models, profile_identity
from gmvaluator.models.specs import DATA
from gmvaluator.models.weight_files import read_pinned
from gmvaluator.profile import ProfileIdentity


def test_the_identity_is_read_without_model_code() -> None:
    program = (
        "import sys; from gmvaluator.models.profiles import profile_identity; profile_identity('lite'); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "choice",
    [
        ProfileChoice("lite"),
        ProfileChoice("stub"),
        ProfileChoice("paper", recall="vgg16", rerank="lpips:alex", quality="maniqa"),
    ],
    ids=lambda choice: choice.profile,
)
def test_inputs_are_prepared_without_torch(choice: ProfileChoice) -> None:
    """A process that only prepares inputs starts fast and stays small, for every family but open_clip's."""
    program = (
        "import sys; from PIL import Image; from gmvaluator.models.choice import ProfileChoice; "
        "from gmvaluator.models.profiles import input_maker; "
        "input_maker(ProfileChoice.from_text(sys.argv[1]))(Image.new('RGB', (300, 260))); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, choice.as_text()], check=False).returncode == 0


def test_the_known_profiles_are_named() -> None:
    assert known_profiles() == ("lite", "paper")


def test_an_identity_survives_its_file() -> None:
    identity = profile_identity("lite")
    assert identity.name == "lite"
    assert ProfileIdentity.from_dict(json.loads(json.dumps(identity.as_dict()))) == identity


def test_lite_pins_what_is_shipped() -> None:
    shipped = (DATA / "lite.safetensors").read_bytes()
    assert profile_identity("lite").weights["heads"] == sha256_hex(shipped)
    assert len(shipped) < 4 * 1024 * 1024


@pytest.mark.parametrize("ask", [profile_identity, load_models])
def test_an_unknown_profile_is_refused_with_the_known_ones(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(UnknownProfile, match=r"'liet'.*known: .*lite"):
        ask("liet")


def test_pinned_bytes_are_returned(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    assert read_pinned(path, sha256_hex(b"weights"), "fetch them") == b"weights"


def test_other_bytes_and_absent_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with pytest.raises(MissingWeights, match="fetch them"):
        read_pinned(path, sha256_hex(b"weights"), "fetch them")
    path.write_bytes(b"others")
    with pytest.raises(MissingWeights, match=r"not the pinned .*fetch them"):
        read_pinned(path, sha256_hex(b"weights"), "fetch them")


def test_malloc_is_left_alone_where_it_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not raise_malloc_thresholds()


def test_malloc_thresholds_can_be_raised_in_a_process_of_their_own() -> None:
    program = (
        "import platform, sys; from gmvaluator.models.process_setup import raise_malloc_thresholds; "
        "sys.exit(raise_malloc_thresholds() != (platform.libc_ver()[0] == 'glibc'))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
