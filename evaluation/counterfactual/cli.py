"""`gmvaluator evaluate counterfactual`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from evaluation.cli import print_report
from gmvaluator.commands.options import json_option, profile_option
from gmvaluator.report import report

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("counterfactual")
@click.option("--work", type=FOLDER, default=Path("report/work"), show_default=True, help="Keeps what is trained.")
@click.option("--quick", is_flag=True, help="A few tiny trainings: shows that it works.")
@profile_option
@json_option
def evaluate_counterfactual(work: Path, quick: bool, profile: str, as_json: bool) -> None:
    """Retrain a small generator without the credited works, and measure what that changes.

    A run that was stopped goes on where it was: every training is kept in the folder given by --work.

    Example: gmvaluator evaluate counterfactual --json
    """
    from evaluation.counterfactual.run import counterfactual
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    section = counterfactual(profile, quick, work)
    command = f"gmvaluator evaluate counterfactual --profile {profile}{' --quick' if quick else ''} --json"
    print_report(report(section.figures, command), as_json)
