"""The policy that a generator gets by default: the one that was calibrated for the profile of its collection."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.main import gmvaluator as program
from gmvaluator.errors import InvalidInput, MissingIndex
from gmvaluator.index.opening import open_store
from gmvaluator.models.profiles import profile_identity

LITE, OTHER = "works", "stub-works"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with an empty collection of profile lite and one of profile stub."""
    folder = tmp_path_factory.mktemp("data")
    for collection, profile in ((LITE, "lite"), (OTHER, "stub")):
        with closing(open_store(folder / "index", collection)) as store:
            store.create(profile_identity(profile))
    with open_catalogue(folder, write=True) as catalogue:
        catalogue.add_data_set("set")
    return folder


def add(data: Path, name: str, *words: str) -> Any:
    """Register a generator and return what is printed of it as JSON."""
    command = ["generators", "add", name, "--data-set", "set", *words, "--data", str(data), "--json"]
    return json.loads(CliRunner().invoke(program, command, catch_exceptions=False).stdout)


def test_profile_lite_has_a_calibrated_policy(data: Path) -> None:
    assert add(data, "on-lite")["policy"] == "calibrated@3"
    listed = CliRunner().invoke(program, ["generators", "list", "--data", str(data)]).stdout
    assert "on-lite: trained on set; valued by calibrated@3; collection works" in listed


def test_another_profile_needs_a_policy(data: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no shipped policy was calibrated for profile 'stub'.*--policy"):
        add(data, "on-stub", "--collection", OTHER)
    assert add(data, "on-stub", "--collection", OTHER, "--policy", "paper@1")["policy"] == "paper@1"


def test_a_registered_generator_keeps_its_policy(data: Path) -> None:
    add(data, "kept", "--policy", "paper@1")
    assert add(data, "kept")["policy"] == "paper@1"
    assert add(data, "kept", "--collection", OTHER, "--replace")["policy"] == "paper@1"
    listed = CliRunner().invoke(program, ["generators", "list", "--data", str(data)]).stdout
    assert "valued by paper@1 (which leaves nothing unattributed)" in listed


def test_without_an_index_the_policy_is_asked_for(tmp_path: Path) -> None:
    with open_catalogue(tmp_path, write=True) as catalogue:
        catalogue.add_data_set("set")
    with pytest.raises(MissingIndex, match=r"there is no index in .*: index your works first"):
        add(tmp_path, "early")
    assert not (tmp_path / "index").exists()
    assert add(tmp_path, "early", "--policy", "paper@1")["policy"] == "paper@1"
