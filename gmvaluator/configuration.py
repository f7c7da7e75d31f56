"""Settings from a TOML file, below options and environment; and the page that lists them all."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.errors import InvalidInput, MissingData

MAX_FILE_BYTES = 1024 * 1024
_DOCUMENTED = ("serve", "attribute", "dashboard")
_HEAD = """# Settings

A setting is taken from its option if that is given, else from the environment, else from the TOML file that
`gmvaluator --config FILE` or `GMV_CONFIG` names, else it is the default. The file has a table for each command, with
the options' names without dashes in front; what no command knows is refused:

    [serve]
    address = "0.0.0.0:50051"
    max-batch = 16

Secrets may come in files, as containers hand them over: `DATABASE_URL`, `DATABASE_PASSWORD` (put into a URL that has
none) and `QDRANT_API_KEY` each have a twin that ends in `_FILE` and names the file. Both at once are refused.

This page is made of the commands themselves, by `python -m gmvaluator.configuration`; a test holds it against them.
"""


def read_defaults(path: Path, name: str, command: click.Command) -> dict[str, Any]:
    """What the file says for the command of this name, by click's parameter names.

    Raises MissingData if it cannot be read, InvalidInput if it is no TOML or says what the command does not know.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise MissingData(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = tomllib.loads(text.decode()).get(name, {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is no TOML: {error}") from error
    return _named(found, command, f"{path}, table {name}")


def _named(table: Any, command: click.Command, where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{where}: a table of settings is expected")
    options = _options(command)
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = command.get_command(click.Context(command), key) if isinstance(command, click.Group) else None
        if inner is not None:
            found[key] = _named(value, inner, f"{where}.{key}")
        elif key.replace("_", "-") in options:
            found[options[key.replace("_", "-")]] = value
        else:
            raise InvalidInput(f"{where}: there is no setting {key!r}; known: {', '.join(sorted(options))}")
    return found


def _options(command: click.Command) -> dict[str, str]:
    """`max-batch` to `max_batch`: option names to parameter names."""
    found = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            found.update({option.lstrip("-"): parameter.name for option in parameter.opts if option.startswith("--")})
    return found


def reference(root: click.Group) -> str:
    """The page docs/settings.md."""
    parts = [_HEAD]
    for name in _DOCUMENTED:
        command = root.get_command(click.Context(root), name)
        if command is not None:
            rows = "\n".join(_rows(command))
            parts.append(f"\n## gmvaluator {name}\n\n| option | environment | default | |\n|---|---|---|---|\n{rows}\n")
    return "".join(parts)


def _rows(command: click.Command) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option):
            names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
            variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
            variable = ", ".join(f"`{one}`" for one in variables)
            yield f"| {names} | {variable} | {_default(option)} | {(option.help or '').replace('|', '/')} |"


def _default(option: click.Option) -> str:
    value = option.to_info_dict()["default"]
    return f"`{value}`" if isinstance(value, int | float | str) and value not in ("", False) else ""


if __name__ == "__main__":
    import sys

    from gmvaluator.cli import gmvaluator

    sys.argv[1:] = ["a-command"]  # so that commands are loaded, and not only listed
    click.echo(reference(gmvaluator), nl=False)
