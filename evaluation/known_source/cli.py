"""`gmvaluator evaluate known-source`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import rich_click as click

from evaluation.cli import print_report
from gmvaluator.commands.options import json_option, profile_option
from gmvaluator.report import report


@click.command("known-source")
@click.option("--policy", "policies", multiple=True, metavar="NAME@N", help="Compare this policy too; may be repeated.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Ask the index of this folder, which holds the whole sample; default: one is made, which takes minutes.",
)
@click.option("--quick", is_flag=True, help="Few images: shows that it works.")
@profile_option
@json_option
def evaluate_known_source(
    policies: tuple[str, ...], data: Path | None, quick: bool, profile: str, as_json: bool
) -> None:
    """Measure what share of the credit finds the true source, and what is paid when there is none.

    Example: gmvaluator evaluate known-source --json
    """
    from evaluation.known_source.run import known_source
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    section = known_source(profile, quick, policies, None if data is None else data / "index")
    print_report(report(section.figures, shlex.join(["gmvaluator", *sys.argv[1:]])), as_json)
