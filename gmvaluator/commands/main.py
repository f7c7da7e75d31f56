"""`gmvaluator`: one console script whose subcommands are loaded when they are called.

Settings from a TOML file, below options and environment; and the page that lists them all.
"""

from __future__ import annotations

import importlib
import signal
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click

from gmvaluator import __version__
from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData, exit_code_of

_COMMANDS = {
    "demo": (
        "gmvaluator.commands.demo",
        "demo",
        "Index the sample, serve, attribute, and print the credits per artist.",
    ),
    "index": ("indexer.cli.index", "index", "Build and check the index of training images."),
    "serve": ("attributor.cli", "serve", "Run the attributor, a gRPC service."),
    "attribute": ("gmvaluator.commands.attribute", "attribute", "Send images to a running attributor."),
    "health": ("gmvaluator.commands.attribute", "health", "Ask an attributor how it is: for probes."),
    "dashboard": ("dashboard.cli", "dashboard", "Show who earned what and why, live, in a browser."),
    "ledger": ("gmvaluator.commands.ledger", "ledger", "Read and check who earned what."),
    "rights": ("gmvaluator.commands.rights", "rights", "Record who owns which work, and forget people."),
    "generators": ("gmvaluator.commands.generators", "generators", "Register the image generators that are served."),
    "token": ("gmvaluator.commands.token", "token", "Make, list and revoke the tokens that callers send."),
    "plan": ("gmvaluator.commands.plan", "plan", "Reckon how many machines a deployment needs."),
    "models": ("gmvaluator.commands.models", "models", "Weights of profile paper: list, fetch, verify."),
    "calibrate": ("evaluation.evaluate", "calibrate", "Fit a policy to derivatives of known works."),
    "evaluate": (
        "evaluation.evaluate",
        "evaluate",
        "Measure what the credits are worth, with a report to look at.",
    ),
    "bench": ("evaluation.bench.cli", "bench", "Measure, as JSON, with the baseline in the same run."),
}

_OVERVIEW = f"{__name__}.overview"
"""In the context's `meta` while the help of the program itself is written."""


class LazyGroup(click.RichGroup):
    """Knows the names and summaries of its commands; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Commands are listed by their summaries, without importing them."""
        ctx.meta[_OVERVIEW] = True
        super().format_help(ctx, formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if ctx.meta.get(_OVERVIEW):
            return click.Command(cmd_name, short_help=_COMMANDS[cmd_name][2])
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gmvaluator")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="GMV_CONFIG",
    help="TOML file with a table of settings for each command; options and environment win.",
)
@click.pass_context
def gmvaluator(context: click.Context, config: Path | None) -> None:
    """Who made what a generator learned from: similarity-based attribution and credits for training images.

    Example: gmvaluator demo
    """
    name = context.invoked_subcommand
    if config is None or name is None:
        return

    command = gmvaluator.get_command(context, name)
    if command is not None:
        context.default_map = {name: read_defaults(config, name, command)}


def main() -> NoReturn:
    """Entry point: an expected error is one line on stderr and exit code 2 (the caller's) or 1 (ours).

    SIGTERM unwinds as Ctrl-C does, so that files are closed and children stopped.
    """
    signal.signal(signal.SIGTERM, _leave)
    try:
        code = gmvaluator(standalone_mode=False)
    except GmvaluatorError as error:
        click.echo(f"gmvaluator: {error}", err=True)
        sys.exit(exit_code_of(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("gmvaluator: stopped", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _leave(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(128 + number)


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

This page is made of the commands themselves, by `python -m gmvaluator.commands.main`; a test holds it against them.
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
    """The page docs/reference/settings.md."""
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

    sys.argv[1:] = ["a-command"]  # so that commands are loaded, and not only listed
    click.echo(reference(gmvaluator), nl=False)
