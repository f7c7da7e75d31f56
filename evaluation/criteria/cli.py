"""`gmvaluator evaluate criteria`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from evaluation.cli import print_report
from gmvaluator.commands.options import json_option, profile_option
from gmvaluator.report import report

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("criteria")
@click.option("--work", type=FOLDER, default=Path("report/work"), show_default=True, help="Keeps what is embedded.")
@click.option("--fashion", type=FOLDER, help="Folder of Fashion-MNIST's idx files; default: it is left out.")
@click.option("--quick", is_flag=True, help="Few images: shows that it works.")
@profile_option
@json_option
def evaluate_criteria(work: Path, fashion: Path | None, quick: bool, profile: str, as_json: bool) -> None:
    """Measure the paper's criteria on small generators trained on the spot.

    Example: gmvaluator evaluate criteria --json
    """
    from evaluation.criteria.run import criteria
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    figures: dict[str, float] = {}
    for section in criteria(profile, quick, work, fashion):
        figures |= section.figures
    options = f"{' --quick' if quick else ''}{' --fashion FOLDER' if fashion else ''}"
    print_report(report(figures, f"gmvaluator evaluate criteria --profile {profile}{options} --json"), as_json)
