"""The token of a client: its file may come from any editor or shell, and what is no token is refused with one line."""

import codecs
from pathlib import Path

import pytest

from gmvaluator.auth.secret_files import secret
from gmvaluator.client.connection import Connection
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import PreconditionFailed
from gmvaluator.testing.attributor import fake_attributor

TOKEN = "gmv_abc-DEF_0123"
SENT = (("authorization", f"Bearer {TOKEN}"),)

FILES = {
    "plain": TOKEN.encode(),
    "LF": f"{TOKEN}\n".encode(),
    "CR LF": f"{TOKEN}\r\n".encode(),
    "UTF-8 with BOM": codecs.BOM_UTF8 + TOKEN.encode(),
    "UTF-16": f"{TOKEN}\r\n".encode("utf-16"),
    "UTF-16 BE": codecs.BOM_UTF16_BE + TOKEN.encode("utf-16-be"),
    "spaces": f"  {TOKEN}\t\n\n".encode(),
}
NO_TOKENS = {
    "empty": b"",
    "white space": b" \r\n",
    "two lines": b"gmv_a\ngmv_b\n",
    "UTF-16 without BOM": TOKEN.encode("utf-16-le"),
    "umlaut": "gmv_\u00e4".encode(),
    "Latin-1": "gmv_\u00e4".encode("latin-1"),
    "binary": bytes(range(256)),
    "long": b"x" * 100_000,
    "with its header": f"Bearer {TOKEN}".encode(),
    "a control character": b"gmv_a\x00b",
}


@pytest.mark.parametrize("name", FILES)
def test_a_token_file_is_read_in_the_encoding_of_its_editor(tmp_path: Path, name: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(FILES[name])
    assert Connection(token_file=path).metadata() == SENT


@pytest.mark.parametrize("name", NO_TOKENS)
def test_what_is_no_token_is_refused_before_it_is_sent(tmp_path: Path, name: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(NO_TOKENS[name])
    with pytest.raises(PreconditionFailed, match="token holds no token"):
        Connection(token_file=path).metadata()


@pytest.mark.parametrize("value", [TOKEN, TOKEN + "\r", f" {TOKEN}\n", "\ufeff" + TOKEN])
def test_a_variable_may_end_in_a_carriage_return(value: str) -> None:
    assert Connection.from_environment({"GMV_TOKEN": value, "GMV_SERVER": "127.0.0.1:1\r"}).metadata() == SENT
    assert Connection.from_environment({"GMV_SERVER": "127.0.0.1:1\r\n"}).address == "127.0.0.1:1"


def test_a_call_with_a_damaged_token_fails_with_one_line() -> None:
    with (
        fake_attributor() as attributor,
        AttributorClient(Connection(attributor.address, token="gmv_a\nb")) as client,
    ):
        with pytest.raises(PreconditionFailed, match="holds no token"):
            list(client.attribute(b"x", "g1", "m"))
        assert not attributor.requests


def test_secrets_of_servers_are_read_in_the_same_encodings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    monkeypatch.setenv("QDRANT_API_KEY_FILE", str(path))
    for data in FILES.values():
        path.write_bytes(data)
        assert secret("QDRANT_API_KEY") == TOKEN
