"""Tests of how the console script loads its commands."""

import io
import signal
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gmvaluator.commands.config_file import ConfigFile
from gmvaluator.commands.main import gmvaluator, main
from gmvaluator.errors import InvalidInput, MissingData, exit_code_of


def test_a_command_that_the_wheel_leaves_out_asks_for_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "evaluation.bench.cli", raising=False)
    monkeypatch.setitem(sys.modules, "evaluation.bench", None)
    result = CliRunner().invoke(gmvaluator, ["bench", "serve"])
    assert isinstance(result.exception, MissingData)
    assert "checkout of the repository" in str(result.exception)
    assert exit_code_of(result.exception) == 2


def test_a_missing_dependency_is_not_mistaken_for_a_missing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gmvaluator.commands.plan", raising=False)
    monkeypatch.setitem(sys.modules, "gmvaluator.planning.plan", None)
    result = CliRunner().invoke(gmvaluator, ["plan"])
    assert isinstance(result.exception, ModuleNotFoundError)


def test_a_terminal_that_lacks_a_character_is_sent_another(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(printed, "cp1252"))
    monkeypatch.setattr(sys, "argv", ["gmvaluator", "--version"])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit):
        main()
    click.echo("山田", nl=False)
    assert printed.getvalue().endswith(b"??")


def test_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(b'\xef\xbb\xbf[health]\r\nserver = "127.0.0.1:1"\r\n')
    command = gmvaluator.get_command(click.Context(gmvaluator), "health")
    assert command is not None
    assert ConfigFile.read(file).defaults("health", command, ["health"]) == {"server": "127.0.0.1:1"}
    file.write_bytes('[health]\nserver = "x"\n'.encode("utf-16"))
    with pytest.raises(InvalidInput, match="save it as UTF-8"):
        ConfigFile.read(file)
