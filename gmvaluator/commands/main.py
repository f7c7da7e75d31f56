"""The console script `gmvaluator`: a group of commands that are imported when they are called, and its TOML file."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import rich_click as click

from gmvaluator import __version__
from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData, exit_code_of
from gmvaluator.text import read_text

# Importing every command costs seconds (torch, gRPC, SQLAlchemy), so that the group knows them by name only. The
# summaries repeat the commands' own, because `gmvaluator --help` must not import the commands either.
_COMMANDS = {
    "demo": (
        "gmvaluator.commands.demo",
        "demo",
        "Index the sample, serve, attribute, and print the credits per artist.",
    ),
    "index": ("indexer.cli.index", "index", "Build and check the index of training images."),
    "serve": ("attributor.cli", "serve", "Run the attributor, a gRPC service."),
    "attribute": ("gmvaluator.commands.attribute", "attribute", "Send images to a running attributor."),
    "health": ("gmvaluator.commands.attribute", "health", "Query the health of an attributor, for probes."),
    "dashboard": ("dashboard.cli", "dashboard", "Show who earned what and why, live, in a browser."),
    "ledger": ("gmvaluator.commands.ledger", "ledger", "Read, check, correct and pay out the credits."),
    "rights": ("gmvaluator.commands.rights", "rights", "Record who owns which work, and forget people."),
    "generators": ("gmvaluator.commands.generators", "generators", "Register the image generators to attribute."),
    "token": ("gmvaluator.commands.token", "token", "Create, list and revoke the tokens of callers."),
    "plan": ("gmvaluator.commands.plan", "plan", "Estimate how many machines a deployment needs."),
    "models": ("gmvaluator.commands.models", "models", "List, fetch and verify the weights of profile paper."),
    "calibrate": ("evaluation.cli", "calibrate", "Fit a policy to derivatives of your own works."),
    "evaluate": ("evaluation.cli", "evaluate", "Measure what the credits are worth, and write a report."),
    "bench": ("evaluation.bench.cli", "bench", "Measure speed, as JSON, with the baseline in the same run."),
}
"""Module, attribute and summary of each command."""

_OVERVIEW = f"{__name__}.overview"
"""Key in the context's `meta` that is set while the help of the program itself is printed."""

MAX_FILE_BYTES = 1024 * 1024
"""Maximum number of bytes read of a settings file."""


class LazyGroup(click.RichGroup):
    """A group that knows the names and summaries of its commands, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, with the commands' summaries, without importing the commands."""
        ctx.meta[_OVERVIEW] = True
        super().format_help(ctx, formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if ctx.meta.get(_OVERVIEW):
            return click.Command(cmd_name, short_help=_COMMANDS[cmd_name][2])
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(_import(module, cmd_name), attribute)
        assert isinstance(command, click.Command)
        return command


def _import(module: str, command: str) -> ModuleType:
    """Import the module of a command. Raises MissingData if the installed package does not contain it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The wheel leaves out the benchmarks. A missing dependency of theirs is another error.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingData(
            f"`gmvaluator {command}` is not part of the installed package: run it in a checkout of the repository"
        ) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gmvaluator")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="GMV_CONFIG",
    help="TOML file with a table of settings for each command; options and environment variables take precedence.",
)
@click.pass_context
def gmvaluator(context: click.Context, config: Path | None) -> None:
    """Attribute generated images to training images by similarity, and credit the owners.

    Example: gmvaluator demo
    """
    name = context.invoked_subcommand
    if config is None or name is None:
        return
    command = gmvaluator.get_command(context, name)
    if command is not None:
        context.default_map = {name: read_defaults(config, name, command)}


def main() -> NoReturn:
    """Run the program and exit; an expected error is one line on stderr.

    Exit codes: 2 for the caller's mistakes, 1 for other errors, 130 after Ctrl-C, 143 after SIGTERM.
    """
    # SIGTERM raises SystemExit, as Ctrl-C raises KeyboardInterrupt, so that files are closed and children are stopped.
    signal.signal(signal.SIGTERM, _exit_by_signal)
    for stream in (sys.stdout, sys.stderr):
        # A name may hold characters that the terminal's encoding lacks: print "?" for them rather than fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
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


def _exit_by_signal(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(128 + number)


def read_defaults(path: Path, name: str, command: click.Command) -> dict[str, Any]:
    """Return the settings of table `name` of a TOML file, by the command's parameter names.

    Raises MissingData if the file cannot be read, InvalidInput if it is not TOML or names a setting that the command
    does not have.
    """
    text = read_text(path, str(path), MAX_FILE_BYTES)
    try:
        table = tomllib.loads(text).get(name, {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is no TOML: {error}") from error
    return _defaults(table, command, f"{path}, table {name}")


def _defaults(table: Any, command: click.Command, where: str) -> dict[str, Any]:
    """Return a table's settings by parameter name, those of subcommands nested."""
    if not isinstance(table, Mapping):
        raise InvalidInput(f"{where}: a table of settings is expected")
    parameters = _parameters_by_option(command)
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        subcommand = command.get_command(click.Context(command), key) if isinstance(command, click.Group) else None
        option = key.replace("_", "-")
        if subcommand is not None:
            defaults[key] = _defaults(value, subcommand, f"{where}.{key}")
        elif option in parameters:
            defaults[parameters[option]] = value
        else:
            raise InvalidInput(f"{where}: there is no setting {key!r}; known: {', '.join(sorted(parameters))}")
    return defaults


def _parameters_by_option(command: click.Command) -> dict[str, str]:
    """Map option names without dashes in front to parameter names: `max-batch` to `max_batch`."""
    return {
        option.lstrip("-"): parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name
        for option in parameter.opts
        if option.startswith("--")
    }
