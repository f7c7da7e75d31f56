"""The console script `gmvaluator`: a group of commands that are imported when they are called, and its TOML file."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from gmvaluator import __version__
from gmvaluator.commands.config_file import OPTION, ConfigFile, config_first
from gmvaluator.commands.failures import report_failure
from gmvaluator.commands.parameters import FILE
from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData, PreconditionFailed

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
    "owners": ("gmvaluator.commands.owners", "owners", "List the owners of works, and show one."),
    "works": ("gmvaluator.commands.works", "works", "List the works in the catalogue, and show one."),
    "data-sets": ("gmvaluator.commands.works", "data_sets", "List the data sets that works were indexed into."),
    "policies": ("gmvaluator.commands.policies", "policies", "List the policies that value images, and show one."),
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
    type=FILE,
    envvar="GMV_CONFIG",
    help="TOML file with a table of settings for each command; options and environment variables take precedence. "
    "It may stand after the command too.",
)
@click.pass_context
def gmvaluator(context: click.Context, config: Path | None) -> None:
    """Attribute generated images to training images by similarity, and credit the owners.

    Catalogue and ledger are SQLite files in the data folder, or a PostgreSQL database that --database or DATABASE_URL
    names, as postgresql://USER@HOST/NAME. Arguments are visible in the process list: give secrets by DATABASE_URL_FILE
    and DATABASE_PASSWORD_FILE.

    Example: gmvaluator demo
    """
    name = context.invoked_subcommand
    if config is None or name is None:
        return
    command = gmvaluator.get_command(context, name)
    if command is not None:
        file = ConfigFile.read(config)
        context.default_map = {name: file.defaults(name, command, _COMMANDS)}


def main() -> NoReturn:
    """Run the program and exit; an error is one line on stderr. `failures` lists the exit codes; 143 after SIGTERM."""
    # gRPC's C library writes to stderr what the one line says already.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # SIGTERM raises SystemExit, as Ctrl-C raises KeyboardInterrupt, so that files are closed and children are stopped.
    signal.signal(signal.SIGTERM, _exit_by_signal)
    for stream in (sys.stdout, sys.stderr):
        # A name may hold characters that the terminal's encoding lacks: print "?" for them rather than fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program with `arguments`, default: those of the process, and return the exit code."""
    words = config_first(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_arguments(words)
        code = gmvaluator.main(words, prog_name="gmvaluator", standalone_mode=False)
    except NoArgsIsHelpError as error:
        # Not a mistake: the error's text is the help of a group.
        error.show()
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error becomes a line
        return report_failure(error, _config_place(error, words))
    return code if isinstance(code, int) else 0


def _config_place(error: BaseException, words: Sequence[str]) -> str | None:
    """Return the line of the settings file whose value an error is about, or None."""
    if not isinstance(error, InvalidInput | PreconditionFailed | click.UsageError):
        return None
    path = words[1] if words[:1] == [OPTION] and len(words) > 1 else os.environ.get("GMV_CONFIG", "")
    if words and words[0].startswith(f"{OPTION}="):
        path = words[0].partition("=")[2]
    try:
        message = error.format_message() if isinstance(error, click.UsageError) else str(error)
        named = words[2:] if words[:1] == [OPTION] else words
        return ConfigFile.read(Path(path)).place_of(message, named) if path else None
    except GmvaluatorError:
        # The file itself cannot be read, which the error says already.
        return None


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise InvalidInput for an argument that is not UTF-8, unless it names an existing file, or that holds a NUL."""
    for argument in arguments:
        if "\0" in argument:
            raise InvalidInput(f"{argument[:60]!r} is refused: an argument cannot hold a NUL character")
        if not _is_text(argument) and not os.path.lexists(argument.rpartition("=")[2]):
            raise InvalidInput(f"{argument[:60]!r} is refused: it is not UTF-8, and no file has this name")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exit_by_signal(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(128 + number)
