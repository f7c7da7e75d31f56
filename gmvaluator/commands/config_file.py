"""The settings file: a TOML table for each command, whose values become the defaults of the command's options."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.errors import InvalidInput
from gmvaluator.text import read_text

MAX_FILE_BYTES = 1024 * 1024
"""Maximum number of bytes read of a settings file."""

OPTION = "--config"

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")
_NAMED_OPTION = re.compile(r"--([a-z][a-z0-9-]*)")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A settings file that was read. text: its content, by which errors name lines."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read a file. Raises MissingData if it cannot be read, InvalidInput if it is not UTF-8."""
        return cls(path, read_text(path, str(path), MAX_FILE_BYTES))

    def defaults(self, name: str, command: click.Command, commands: Collection[str]) -> dict[str, Any]:
        """Return the settings of table `name` by the command's parameter names, those of subcommands nested.

        commands: names of all commands, which tables may have. Raises InvalidInput if the file is not TOML, or has a
        table or a setting that does not exist.
        """
        try:
            tables = tomllib.loads(self.text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidInput(f"{self.path} is no TOML: {error}") from error
        for table in tables:
            if table not in commands:
                raise InvalidInput(
                    f"{self._at((), table)}: {table!r} is no command: give a table for one, such as [serve], and its "
                    "settings below"
                )
        return self._defaults(tables.get(name, {}), command, (name,))

    def _defaults(self, table: Any, command: click.Command, path: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(table, Mapping):
            raise InvalidInput(f"{self._at(path[:-1], path[-1])}: a table of settings is expected, [{'.'.join(path)}]")
        options = _options_by_name(command)
        defaults: dict[str, Any] = {}
        for key, value in table.items():
            subcommand = command.get_command(click.Context(command), key) if isinstance(command, click.Group) else None
            option = options.get(key.replace("_", "-"))
            if subcommand is not None:
                defaults[key] = self._defaults(value, subcommand, (*path, key))
            elif option is not None and option.name:
                defaults[option.name] = self._checked(option, value, path, key)
            else:
                known = ", ".join(sorted(options)) or "none"
                raise InvalidInput(f"{self._at(path, key)}: table {'.'.join(path)} has no {key!r}; known: {known}")
        return defaults

    def _checked(self, option: click.Option, value: Any, path: tuple[str, ...], key: str) -> Any:
        """Return a value as click takes it from a command line. Raises InvalidInput if its type cannot be right."""
        if option.is_flag:
            valid = isinstance(value, bool)
            expected = "true or false"
        elif option.multiple:
            valid = isinstance(value, list) and all(map(_is_plain, value))
            expected = "a list of texts or numbers"
        else:
            valid = _is_plain(value)
            expected = "a text or a number"
        if not valid:
            raise InvalidInput(f"{self._at(path, key)}: {key} = {value!r:.80} is refused: give {expected}")
        if option.is_flag:
            return value
        return list(map(str, value)) if option.multiple else str(value)

    def _at(self, path: Sequence[str], key: str) -> str:
        line = self.line_of(path, key)
        return str(self.path) if line is None else f"{self.path}, line {line}"

    def line_of(self, path: Sequence[str], key: str) -> int | None:
        """Return the line of a setting or table, from 1, or None if it is not written in the usual way."""
        table: tuple[str, ...] = ()
        option = key.replace("_", "-")
        for number, line in enumerate(self.text.splitlines(), 1):
            header = _HEADER.fullmatch(line)
            if header is not None:
                table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
                if table == (*path, key):
                    return number
                continue
            setting = _KEY.match(line)
            if setting is not None and table == tuple(path) and setting[1].replace("_", "-") == option:
                return number
        return None

    def place_of(self, message: str, words: Sequence[str]) -> str | None:
        """Return "FILE, line N" if an error's message names an option that the file sets and the words do not."""
        for match in _NAMED_OPTION.finditer(message):
            given = f"--{match[1]}"
            if any(word == given or word.startswith(f"{given}=") for word in words):
                continue
            for depth in range(3, 0, -1):
                line = self.line_of([word for word in words if not word.startswith("-")][:depth], match[1])
                if line is not None:
                    return f"{self.path}, line {line}"
        return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    return isinstance(value, int | float) and not isinstance(value, bool)


def _options_by_name(command: click.Command) -> dict[str, click.Option]:
    """Map the names of long options, without their leading dashes, to the options: `max-batch` to `--max-batch`."""
    return {
        name.lstrip("-"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name.startswith("--")
    }


def config_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--config FILE`, which may stand anywhere before `--`, in front of all others."""
    config: list[str] = []
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        word = remaining.pop(0)
        if word == "--":
            return [*config, *rest, word, *remaining]
        if word == OPTION and remaining:
            config += [word, remaining.pop(0)]
        elif word == OPTION or word.startswith(f"{OPTION}="):
            config.append(word)
        else:
            rest.append(word)
    return [*config, *rest]
