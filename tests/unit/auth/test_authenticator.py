"""Tokens and authentication: who is accepted, as whom, and how a running program follows changes of the file."""

import json
import stat
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gmvaluator.auth.authenticator import Authenticator, bearer_token, is_loopback
from gmvaluator.auth.roles import LOCAL, Caller, Role
from gmvaluator.auth.tokens import Token, add_token, new_token, now_utc, read_tokens, revoke_token, token_sha256
from gmvaluator.commands.token import token as token_command
from gmvaluator.errors import (
    Forbidden,
    InvalidInput,
    MissingData,
    NotFound,
    PreconditionFailed,
    Unauthenticated,
)

OWNER = str(uuid.UUID(int=7))


def made(path: Path, name: str = "farm", role: Role = Role.GENERATOR, **bound: Any) -> str:
    secret = new_token()
    if role is Role.GENERATOR:
        bound.setdefault("generator", name)
    add_token(path, Token(name, role, token_sha256(secret), now_utc(), **bound))
    return secret


def test_without_a_file_everyone_is_local(tmp_path: Path) -> None:
    authenticator = Authenticator(tmp_path / "tokens.json")
    assert authenticator.anonymous_allowed
    assert authenticator.authenticate(None) is authenticator.authenticate("gmv_anything") is LOCAL
    assert all(LOCAL.has(role) for role in Role)
    assert LOCAL.only_account is None


def test_a_token_authenticates_its_role_and_binding(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    generator, owner = made(path, generator="farm-of-ann"), made(path, "ann", Role.OWNER, owner=OWNER)
    authenticator = Authenticator(path)
    assert not authenticator.anonymous_allowed
    assert authenticator.authenticate(generator) == Caller("farm", frozenset({Role.GENERATOR}), "farm-of-ann")
    assert authenticator.authenticate(owner).only_account == f"owner:{OWNER}"
    assert not authenticator.authenticate(owner).has(Role.GENERATOR, Role.AUDITOR)


@pytest.mark.parametrize("wrong", [None, "", "gmv_", "x" * 100_000, "gmv_" + "A" * 43, "gmv_\N{SNOWMAN}", "\0"])
def test_other_tokens_are_refused(tmp_path: Path, wrong: str | None) -> None:
    made(tmp_path / "tokens.json")
    with pytest.raises(Unauthenticated):
        Authenticator(tmp_path / "tokens.json").authenticate(wrong)


def test_a_hash_from_the_file_is_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    secret = made(path)
    text = path.read_text(encoding="utf-8")
    assert secret not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Unauthenticated):
        Authenticator(path).authenticate(json.loads(text)["tokens"][0]["sha256"])


def test_new_and_revoked_tokens_take_effect_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    authenticator = Authenticator(path)
    assert authenticator.anonymous_allowed
    first = made(path)
    assert authenticator.authenticate(first).name == "farm"
    second = made(path, "second")
    revoke_token(path, "farm")
    assert authenticator.authenticate(second).name == "second"
    with pytest.raises(Unauthenticated, match="revoked"):
        authenticator.authenticate(first)


def test_deleting_the_file_rejects_everyone(tmp_path: Path) -> None:
    path, problems = tmp_path / "tokens.json", list[str]()
    secret = made(path)
    authenticator = Authenticator(path, on_problem=problems.append)
    path.unlink()
    for presented in (secret, None):
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(presented)
    assert len(problems) == 1


def test_a_malformed_file_changes_nothing_and_is_reported_once(tmp_path: Path) -> None:
    path, problems = tmp_path / "tokens.json", list[str]()
    secret = made(path)
    authenticator = Authenticator(path, on_problem=problems.append)
    path.write_text('{"tokens": [', encoding="utf-8")
    assert authenticator.authenticate(secret).name == authenticator.authenticate(secret).name == "farm"
    assert len(problems) == 1


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    now = datetime.now(UTC)
    past = made(path, "past", expires_at=(now - timedelta(seconds=1)).isoformat())
    future = made(path, "future", expires_at=(now + timedelta(days=1)).isoformat())
    assert Authenticator(path).authenticate(future).name == "future"
    with pytest.raises(Unauthenticated, match="expired"):
        Authenticator(path).authenticate(past)


def test_a_required_file_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="gmvaluator token new"):
        Authenticator(tmp_path / "tokens.json", required=True)


def row(**changes: object) -> dict[str, object]:
    good: dict[str, object] = {
        "name": "a", "role": "auditor", "sha256": "0" * 64, "created_at": "2026-01-01T00:00:00Z"
    }  # fmt: skip
    return {**good, **changes}


BAD_FILES: dict[str, object] = {
    "no object": [],
    "no list": {},
    "a number": {"tokens": 3},
    "a text": {"tokens": "abc"},
    "no name": {"tokens": [{"role": "auditor"}]},
    "an unknown field": {"tokens": [row(admin="yes")]},
    "an unknown role": {"tokens": [row(role="root")]},
    "a short hash": {"tokens": [row(sha256="ab")]},
    "an upper-case hash": {"tokens": [row(sha256="A" * 64)]},
    "no text": {"tokens": [row(name=3)]},
    "an evil name": {"tokens": [row(name="a\u202eb")]},
    "twice": {"tokens": [row(), row()]},
    "one hash twice": {"tokens": [row(), row(name="b")]},
    "an owner without a UUID": {"tokens": [row(role="owner")]},
    "an owner who is no UUID": {"tokens": [row(role="owner", owner="ann")]},
    "an auditor with a UUID": {"tokens": [row(owner=OWNER)]},
    "a generator without identity": {"tokens": [row(role="generator")]},
    "an auditor with identity": {"tokens": [row(generator="x")]},
    "the ledger's own identity": {"tokens": [row(role="generator", generator="@ledger")]},
    "no time": {"tokens": [row(expires_at="soon")]},
    "a time without a zone": {"tokens": [row(expires_at="2030-01-01T00:00:00")]},
    "too many": {"tokens": [row(name=str(number), sha256=f"{number:064x}") for number in range(1_001)]},
    "too large": {"tokens": [], "x": "x" * 2_000_000},
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_malformed_file_is_refused_at_the_start(tmp_path: Path, content: object) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PreconditionFailed, match="tokens"):
        Authenticator(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"tokens": [NaN]}'])
def test_a_file_that_is_not_json_is_refused_at_the_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(content)
    with pytest.raises(PreconditionFailed):
        Authenticator(path)


def test_names_are_unique_and_revoking_names_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    made(path)
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="exists"):
        made(path)
    with pytest.raises(NotFound):
        revoke_token(path, "nobody")
    assert path.read_bytes() == before
    with pytest.raises(MissingData):
        revoke_token(tmp_path / "other.json", "farm")


@pytest.mark.parametrize(("header", "token"), [(None, None), ("Bearer abc", "abc"), ("bearer  abc ", "abc")])
def test_a_bearer_header_is_read(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "abc"])
def test_other_headers_are_refused(header: str) -> None:
    with pytest.raises(Unauthenticated):
        bearer_token(header)


def test_requiring_a_role_names_it() -> None:
    auditor = Caller("a", frozenset({Role.AUDITOR}))
    auditor.require(Role.AUDITOR, Role.FINANCE, to="read")
    with pytest.raises(Forbidden, match="a may not close a period: use a token of role finance"):
        auditor.require(Role.FINANCE, to="close a period")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False),
     ("[::]:1", False), ("10.0.0.1:1", False), ("127.evil.example:1", False), ("example.org:1", False)],
)  # fmt: skip
def test_loopback_addresses_are_recognised(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def command(*words: str) -> str:
    done = CliRunner().invoke(token_command, list(words), catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_the_command_prints_a_token_once_and_lists_and_revokes_it(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    secret = command("new", "--role", "generator", "--name", "farm", *data).strip()
    assert Authenticator(tmp_path / "tokens.json").authenticate(secret).generator_identity == "farm"
    listed = command("list", *data)
    assert "farm: generator of farm" in listed
    assert secret not in listed
    assert json.loads(command("list", "--json", *data))["tokens"][0]["role"] == "generator"
    command("revoke", "farm", *data)
    assert read_tokens(tmp_path / "tokens.json") == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens.json", "tokens.json.lock"]
    with pytest.raises(Unauthenticated):
        Authenticator(tmp_path / "tokens.json").authenticate(secret)


@pytest.mark.parametrize("words", [["--role", "owner"], ["--role", "auditor", "--generator", "x"]])
def test_the_command_asks_for_the_binding_that_a_role_needs(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(InvalidInput, match="needed there"):
        command("new", *words, "--data", str(tmp_path))
    assert not (tmp_path / "tokens.json").exists()
