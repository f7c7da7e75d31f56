"""`gmvaluator evaluate duplicates`."""

from __future__ import annotations

import rich_click as click

from evaluation.cli import print_report
from gmvaluator.commands.options import json_option, profile_option
from gmvaluator.report import report


@click.command("duplicates")
@click.option("--policy", default="calibrated@2", show_default=True, metavar="NAME@N", help="The one that pays.")
@click.option("--quick", is_flag=True, help="Few images: shows that it works.")
@profile_option
@json_option
def evaluate_duplicates(policy: str, quick: bool, profile: str, as_json: bool) -> None:
    """Measure which distance tells near-copies from other works, and what adding copies of a work earns.

    Example: gmvaluator evaluate duplicates --json
    """
    from evaluation.duplicates.run import duplicates
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    section = duplicates(profile, quick, policy)
    command = (
        f"gmvaluator evaluate duplicates --profile {profile} --policy {policy}{' --quick' if quick else ''} --json"
    )
    value = report(dict(section.figures), command)
    print_report({**value, "curve": section.details}, as_json)
