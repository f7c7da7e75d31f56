"""The settings file: where `--config` may stand, and what an error in the file says."""

from pathlib import Path

import pytest

from gmvaluator.commands.config_file import config_first
from gmvaluator.commands.main import run


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["serve", "--config", "f", "--tls"], ["--config", "f", "serve", "--tls"]),
        (["serve", "--config=f"], ["--config=f", "serve"]),
        (["--config", "f", "serve"], ["--config", "f", "serve"]),
        (["attribute", "--", "--config", "f"], ["attribute", "--", "--config", "f"]),
        (["serve", "--config"], ["--config", "serve"]),
        ([], []),
    ],
)
def test_config_may_stand_anywhere(arguments: list[str], ordered: list[str]) -> None:
    assert config_first(arguments) == ordered


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("[plan]\nimages = 5\nqps = 'many'\n", 3, "not a valid float"),
        ("[plan]\n# qps\nimages = 0\nqps = 1\n", 3, "--images"),
        ("[plan]\nqps = 1\nimagse = 5\n", 3, "no 'imagse'"),
        ("[serve]\n\n[paln]\nqps = 1\n", 3, "'paln' is no command"),
        ("qps = 1\n", 1, "'qps' is no command"),
        ("plan = 3\n", 1, "a table of settings is expected"),
        ("[plan]\nimages = [5]\n", 2, "give a text or a number"),
        ("[plan]\nimages = true\n", 2, "give a text or a number"),
        ("[plan]\njson = 'yes'\n", 2, "give true or false"),
        ('[plan]\nprofile = "a\\u0000b"\n', 2, "give a text or a number"),
        ("[plan]\nnode_ram = -1\nimages = 5\nqps = 1\n", 2, "--node-ram"),
        ("[plan\n", 1, "is no TOML"),
    ],
)
def test_an_error_in_the_file_names_file_and_line(
    tmp_path: Path, text: str, line: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    assert run(["plan", "--config", str(file)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert str(file) in message
    assert f"line {line}" in message
    assert hint in message


def test_an_error_of_a_command_below_a_group_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[ledger.list]\nlimit = 5\nsince = 'yesterday'\n", encoding="utf-8")
    assert run(["ledger", "list", "--config", str(file)]) == 2
    assert f"{file}, line 3: --since" in capsys.readouterr().err


def test_an_option_that_replaces_the_files_value_is_not_blamed_on_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[plan]\nimages = 5\nqps = 1\n", encoding="utf-8")
    assert run(["--config", str(file), "plan", "--images", "x"]) == 2
    assert str(file) not in capsys.readouterr().err
    assert run(["plan", f"--config={file}", "--json"]) == 0
