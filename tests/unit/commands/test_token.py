"""`gmvaluator token`: what a generator's token is bound to, and which identity it posts under."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gmvaluator.auth.authenticator import Authenticator
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.auth.tokens import read_tokens
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.token import token as command
from gmvaluator.errors import Forbidden, InvalidInput
from gmvaluator.ledger.results import Posted
from gmvaluator.ledger.store import open_ledger
from gmvaluator.ports import Generator
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting
from tests.support.scenes import record, work

Run = Callable[..., dict[str, Any]]


def invoked(data: Path, *words: str) -> Result:
    return CliRunner().invoke(command, [*words, "--data", str(data), "--json"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*words: str) -> dict[str, Any]:
        done = invoked(tmp_path, *words)
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    return run


@pytest.fixture
def new(run: Run) -> Run:
    """Create a generator's token."""
    return lambda name, *words: run("new", "--role", "generator", "--name", name, *words)


def register(data: Path, *versions: str) -> None:
    record(DataLocation(data), work(1, "ada"))
    with open_catalogue(data, write=True) as catalogue:
        for version in versions:
            catalogue.add_generator(Generator(version, "works", ("paintings",), "paper@1"), replace=False)


def post(data: Path, identity: str, model_version: str, number: int = 1) -> None:
    with open_ledger(data, write=True) as book:
        (outcome,) = book.post([sample_posting(number, identity=identity, model_version=model_version)])
        assert isinstance(outcome, Posted)


def test_a_token_is_for_the_generators_that_are_registered(tmp_path: Path, new: Run) -> None:
    register(tmp_path, "g1", "g2")
    assert new("a")["model_versions"] == ["g1", "g2"]
    assert new("b", "--model-version", "g2")["model_versions"] == ["g2"]
    planned = new("c", "--model-version", "g3")
    assert (planned["model_versions"], "not registered yet: g3" in planned["notes"][0]) == (["g3"], True)
    unbound = new("d", "--model-version", "*")
    assert (unbound["model_versions"], "every generator" in unbound["notes"][0]) == ([], True)


def test_without_a_catalogue_it_is_said_that_a_token_is_for_every_generator(new: Run) -> None:
    made = new("a")
    assert made["model_versions"] == []
    assert any("every generator" in note for note in made["notes"])


def test_a_caller_names_no_generator_that_its_token_is_not_bound_to(tmp_path: Path, new: Run, run: Run) -> None:
    register(tmp_path, "g1")
    secret = new("a")["token"]
    authenticator = Authenticator(tmp_path / "tokens.json")
    authenticator.authenticate(secret).require_generator("g1")
    with pytest.raises(Forbidden, match="only g1"):
        authenticator.authenticate(secret).require_generator("g2")
    assert run("bind", "a", "--model-version", "g2")["notes"] == [
        "not registered yet: g2 (`gmvaluator generators add`)"
    ]
    assert run("bind", "a", "--model-version", "g1", "--model-version", "g1")["notes"] == []
    run("bind", "a", "--model-version", "g2")
    authenticator.authenticate(secret).require_generator("g2")
    run("bind", "a", "--model-version", "*")
    authenticator.authenticate(secret).require_generator("anything")
    Caller("old", frozenset({Role.GENERATOR}), "old").require_generator("anything")


def test_the_first_token_goes_on_as_callers_without_one(tmp_path: Path, new: Run) -> None:
    register(tmp_path, "g1")
    post(tmp_path, "local", "g1")
    first = new("farm")
    assert first["generator"] == "local"
    assert [word in " ".join(first["notes"]) for word in ("calls without one are refused", "takes over")] == [
        True,
        True,
    ]
    second = new("other")
    assert second["generator"] == "other"
    assert "local (token farm)" in second["notes"][0]


def test_a_token_that_replaces_a_revoked_one_goes_on_as_it(tmp_path: Path, new: Run, run: Run) -> None:
    register(tmp_path, "g1")
    new("farm-1")
    post(tmp_path, "farm-1", "g1")
    assert new("farm-2")["generator"] == "farm-2"
    run("revoke", "farm-1")
    assert new("farm-3")["generator"] == "farm-1"


def test_of_several_identities_one_has_to_be_chosen(tmp_path: Path, new: Run) -> None:
    register(tmp_path, "g1", "g2")
    for number, identity in enumerate(("local", "farm")):
        post(tmp_path, identity, "g1", number)
    refused = invoked(tmp_path, "new", "--role", "generator", "--name", "new", "--model-version", "g1")
    assert isinstance(refused.exception, InvalidInput)
    assert "farm, local" in str(refused.exception)
    assert not (tmp_path / "tokens.json").exists()
    assert new("farm")["generator"] == "farm"
    assert new("a", "--model-version", "g2")["generator"] == "a"
    chosen = new("b", "--generator", "b")
    assert chosen["generator"] == "b"
    assert "paid again" in chosen["notes"][0]


@pytest.mark.parametrize("role", ["operator", "owner"])
def test_roles_that_post_nothing_are_bound_to_no_generator(tmp_path: Path, role: str) -> None:
    words = ["new", "--role", role, "--model-version", "g1"]
    words += ["--owner", "00000000-0000-0000-0000-000000000007"] if role == "owner" else []
    assert isinstance(invoked(tmp_path, *words).exception, InvalidInput)
    assert not (tmp_path / "tokens.json").exists()


def test_a_file_of_tokens_made_before_is_read_and_kept(tmp_path: Path, new: Run) -> None:
    row = {
        "name": "old", "role": "generator", "sha256": "0" * 64, "generator": "old",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
    }  # fmt: skip
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [row]}), encoding="utf-8")
    new("a")
    assert json.loads(file.read_text(encoding="utf-8"))["tokens"][0] == row
    assert read_tokens(file)[0].model_versions == ()


def test_a_refused_binding_changes_nothing(tmp_path: Path, new: Run, run: Run) -> None:
    new("a")
    run("new", "--role", "auditor", "--name", "b")
    before = (tmp_path / "tokens.json").read_bytes()
    for words in (
        ["a"],
        ["b", "--model-version", "g1"],
        ["b", "--model-version", "*"],
        ["c", "--model-version", "g1"],
        ["a", "--model-version", "x\ny"],
    ):
        assert invoked(tmp_path, "bind", *words).exit_code != 0
    assert (tmp_path / "tokens.json").read_bytes() == before
