"""`gmvaluator`: one console script whose subcommands are loaded when they are called."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import rich_click as click

from gmvaluator import __version__
from gmvaluator.errors import GmvaluatorError, exit_code_of

_COMMANDS = {
    "demo": ("gmvaluator.demo", "demo", "Index the sample, serve, attribute, and print the credits per artist."),
    "index": ("indexer.cli", "index", "Build and check the index of training images."),
    "serve": ("attributor.cli", "serve", "Run the attributor, a gRPC service."),
    "attribute": ("gmvaluator.client.cli", "attribute", "Send images to a running attributor."),
    "health": ("gmvaluator.client.health_cli", "health", "Ask an attributor how it is: for probes."),
    "dashboard": ("dashboard.cli", "dashboard", "Show who earned what and why, live, in a browser."),
    "ledger": ("gmvaluator.ledger.cli", "ledger", "Read and check who earned what."),
    "rights": ("gmvaluator.catalogue.rights_cli", "rights", "Record who owns which work, and forget people."),
    "generators": ("gmvaluator.catalogue.cli", "generators", "Register the image generators that are served."),
    "token": ("gmvaluator.token_cli", "token", "Make, list and revoke the tokens that callers send."),
    "plan": ("gmvaluator.planning.cli", "plan", "Reckon how many machines a deployment needs."),
    "models": ("gmvaluator.models.cli", "models", "Weights of profile paper: list, fetch, verify."),
    "calibrate": ("evaluation.calibration.cli", "calibrate", "Fit a policy to derivatives of known works."),
    "evaluate": (
        "evaluation.evaluate_cli",
        "evaluate",
        "Measure what the credits are worth, with a report to look at.",
    ),
    "bench": ("evaluation.cli", "bench", "Measure, as JSON, with the baseline in the same run."),
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
    from gmvaluator.configuration import read_defaults

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
