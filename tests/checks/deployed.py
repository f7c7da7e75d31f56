"""Reading what deploy/ holds, and giving its commands to the product's own parser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich_click as click
import yaml

from gmvaluator.commands.main import gmvaluator

DEPLOY = Path(__file__).parents[2] / "deploy"
_VARIABLE = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")


def read_yaml(name: str) -> Any:
    """A file's one document."""
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def without_variables(text: str) -> str:
    """`${NAME:-default}` as Compose reads it where nothing is set."""
    return _VARIABLE.sub(r"\1", text)


def parse(words: Sequence[str]) -> dict[str, Any]:
    """What `gmvaluator WORDS` understands, by parameter. Raises what click raises if there is no such command."""
    command: click.Command = gmvaluator
    words = list(words)
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    context = command.make_context("deployed", list(words))
    return context.params
