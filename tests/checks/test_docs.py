"""What the documentation shows exists: commands, options, files, make targets."""

import re
import shlex
from pathlib import Path

import pytest
import rich_click as click

from gmvaluator.commands.main import gmvaluator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL_LINE = re.compile(r"^    (?:\$ )?(gmvaluator .*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")


def shown_commands() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in SHELL_LINE.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_every_command_shown_can_be_given(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = gmvaluator
    while isinstance(command, click.Group) and words:
        context = click.Context(command)
        found = command.get_command(context, words[0])
        assert found is not None, f"{page}: there is no command {words[0]}"
        command, words = found, words[1:]
    command.make_context("shown", words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_linked_is_there(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_make_target_shown_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        code = "\n".join(re.findall(r"`[^`\n]+`|^    .*$", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert set(MAKE.findall(code)) <= targets, page.name


def test_every_command_is_in_the_documentation() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in gmvaluator.list_commands(click.Context(gmvaluator)):
        assert f"gmvaluator {name}" in text, name


def test_the_readme_is_short_and_shows_both_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert {"make demo", "make test"} <= {line.strip().split("  ")[0] for line in lines}
