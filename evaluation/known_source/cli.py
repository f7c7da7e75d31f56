"""`gmvaluator evaluate known-source`."""

from __future__ import annotations

import rich_click as click

from evaluation.cli import print_report
from gmvaluator.options import json_option, profile_option
from gmvaluator.report import report


@click.command("known-source")
@click.option("--policy", "policies", multiple=True, metavar="NAME@N", help="Compare this policy too; may be repeated.")
@click.option("--quick", is_flag=True, help="Few images: shows that it works.")
@profile_option
@json_option
def evaluate_known_source(policies: tuple[str, ...], quick: bool, profile: str, as_json: bool) -> None:
    """Measure what share of the credit finds the true source, and what is paid when there is none.

    Example: gmvaluator evaluate known-source --json
    """
    from evaluation.known_source.run import known_source
    from gmvaluator.models.process import prepare_process

    prepare_process()
    section = known_source(profile, quick, policies)
    command = f"gmvaluator evaluate known-source --profile {profile}{' --quick' if quick else ''} --json"
    print_report(report(section.figures, command), as_json)
