"""Secrets from a variable or a file: not both, bounded, and never in a message."""

from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner

from gmvaluator.auth.secret_files import (
    MAX_SECRET_BYTES,
    SECRETS,
    own_environment,
    qdrant_api_key,
    secret,
    with_password,
)
from gmvaluator.commands.options import place_option
from gmvaluator.errors import GmvaluatorError, InvalidInput, PreconditionFailed
from gmvaluator.index.location import ServerAccess, open_access
from gmvaluator.storage.database import DataLocation
from indexer.target import Target


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("  s3cret/@:\n", encoding="utf-8")
    return path


def test_a_secret_is_the_value_or_the_files_content(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    assert (secret("QDRANT_API_KEY"), qdrant_api_key()) == ("", None)
    monkeypatch.setenv("QDRANT_API_KEY_FILE", str(file))
    assert qdrant_api_key() == "s3cret/@:"
    assert Target(Path("x"), "http://q:6334", "works").api_key == "s3cret/@:"
    monkeypatch.setenv("QDRANT_API_KEY", "by value")
    with pytest.raises(InvalidInput, match="both set"):
        secret("QDRANT_API_KEY")
    monkeypatch.delenv("QDRANT_API_KEY_FILE")
    assert qdrant_api_key() == "by value"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00", b"x" * (MAX_SECRET_BYTES + 1)])
def test_a_file_that_holds_no_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("QDRANT_API_KEY_FILE", str(path))
    with pytest.raises(PreconditionFailed, match=r"QDRANT_API_KEY_FILE: .*secret"):
        qdrant_api_key()


@pytest.mark.parametrize(
    ("url", "whole"),
    [("postgresql://me@db/g", "postgresql://me:s3cret%2F%40%3A@db/g"),
     ("postgresql://me@db:5433/g?sslmode=verify-full", "postgresql://me:s3cret%2F%40%3A@db:5433/g?sslmode=verify-full"),
     ("postgresql://me@/g?host=/run/pg", "postgresql://me:s3cret%2F%40%3A@/g?host=/run/pg")],
)  # fmt: skip
def test_a_password_goes_into_the_url(monkeypatch: pytest.MonkeyPatch, file: Path, url: str, whole: str) -> None:
    assert with_password(url) == url
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    assert with_password(url) == whole


@pytest.mark.parametrize("url", ["", "postgresql://db/g", "postgresql://me:other@db/g", "postgresql://[::1/g"])
def test_a_url_that_a_password_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path, url: str) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    with pytest.raises(InvalidInput) as caught:
        with_password(url)
    assert "s3cret" not in str(caught.value)
    assert "other" not in str(caught.value)


@click.command()
@place_option
def where(place: DataLocation) -> None:
    click.echo(place.database_url)


def printed(*words: str, **environment: str) -> str:
    done: Any = CliRunner().invoke(where, words, env=environment, standalone_mode=False)
    if isinstance(done.exception, GmvaluatorError):
        raise done.exception
    assert done.exception is None, done.exception
    return str(done.output).strip()


def test_a_command_takes_its_database_from_a_file(tmp_path: Path, file: Path) -> None:
    url = tmp_path / "url"
    url.write_text("postgresql://me@db/g\n", encoding="utf-8")
    assert printed() == ""
    assert printed(DATABASE_URL_FILE=str(url)) == "postgresql://me@db/g"
    assert printed(DATABASE_URL_FILE=str(url), DATABASE_PASSWORD_FILE=str(file)).startswith("postgresql://me:s3cret")
    assert printed("--database", "postgresql://you@db/g", DATABASE_URL_FILE=str(url)) == "postgresql://you@db/g"
    with pytest.raises(InvalidInput, match="both set"):
        printed(DATABASE_URL="postgresql://you@db/g", DATABASE_URL_FILE=str(url))


def test_programs_of_our_own_get_none_of_it(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"{name}_FILE", str(file))
    assert not [name for name in own_environment() if name.startswith(SECRETS)]


def test_a_key_is_not_shown_by_what_holds_it() -> None:
    access = open_access("https://q:6334", "s3cret")
    assert isinstance(access, ServerAccess)
    assert "s3cret" not in repr(access.endpoint)
