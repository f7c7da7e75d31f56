"""The console script: help texts of all commands, error messages and exit codes."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import rich_click as click
from click.testing import CliRunner

from gmvaluator.commands.main import gmvaluator


def all_commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*words, name))


def test_every_command_has_help_with_an_example() -> None:
    for words, command in all_commands(gmvaluator):
        text = CliRunner().invoke(gmvaluator, [*words, "--help"]).output
        assert "Example: gmvaluator" in text.replace("\n ", " "), words
        assert command.get_short_help_str(), words


@pytest.mark.parametrize(
    "words",
    [
        ["index", "add", "/nowhere"],
        ["index", "info", "--data", "/nowhere"],
        ["serve", "--data", "/nowhere"],
        ["ledger", "totals", "--data", "/nowhere"],
        ["generators", "list", "--data", "/nowhere"],
        ["attribute", "--model-version", "x", "/nowhere.png"],
        ["no-such-command"],
    ],
)
def test_caller_mistakes_print_one_line_and_exit_2(words: list[str]) -> None:
    process = subprocess.run([sys.executable, "-m", "gmvaluator", *words], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    if words != ["no-such-command"]:
        lines = [line for line in process.stderr.splitlines() if '"event": "starting"' not in line]
        assert len(lines) == 1
        assert lines[0].startswith("gmvaluator: ")
