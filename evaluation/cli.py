"""The commands `gmvaluator evaluate NAME` and `gmvaluator calibrate`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from gmvaluator.commands.options import collection_option, index_option, json_option, place_option, profile_option
from gmvaluator.commands.parameters import FOLDER, PathParameter
from gmvaluator.report import report
from gmvaluator.storage.data_folder import index_location, require_index
from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from evaluation.known_source.calibration import Calibration
    from evaluation.known_source.policy_file import Extra


@click.group()
def evaluate() -> None:
    """Measure what the credits are worth, with a report to look at.

    Example: gmvaluator evaluate all --out report/
    """


@evaluate.command("known-source")
@click.option("--policy", "policies", multiple=True, metavar="NAME@N", help="Compare this policy too; may be repeated.")
@click.option(
    "--data",
    type=PathParameter(exists=True, file_okay=False),
    help="Query the index in this folder, which must hold the whole sample; default: make one, which takes minutes.",
)
@click.option(
    "--draw",
    type=click.Choice(("second", "third", "fourth")),
    default="second",
    show_default=True,
    help="Images to measure: the second draw, of whole images, or the third or fourth, with 15 kinds of change that "
    "nothing was fitted on and works in parts of an image.",
)
@click.option(
    "--foreign",
    type=PathParameter(exists=True, file_okay=False),
    help="Folder of images without a source, made by python -m evaluation.images.make_foreign_set; "
    "default: the few that are shipped.",
)
@click.option("--quick", is_flag=True, help="Use few images, only to check that it works.")
@profile_option
@json_option
def evaluate_known_source(
    policies: tuple[str, ...],
    data: Path | None,
    draw: str,
    foreign: Path | None,
    quick: bool,
    profile: str,
    as_json: bool,
) -> None:
    """Measure what share of the credit finds the true source, and what is paid when there is none.

    Example: gmvaluator evaluate known-source --json
    """
    from evaluation.known_source.run import known_source
    from evaluation.report.sections import table_to_json
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    section = known_source(profile, quick, policies, None if data is None else data / "index", draw, foreign)
    value = report(section.figures, shlex.join(["gmvaluator", *sys.argv[1:]]))
    click.echo(f"draw: {draw}; images without a source: {section.details['foreign']}", err=True)
    tables = [table_to_json(table) for table in section.tables]
    print_report({**value, **section.details, "tables": tables}, as_json)


@evaluate.command("criteria")
@click.option(
    "--work", type=FOLDER, default=Path("report/work"), show_default=True, help="Folder of cached embeddings."
)
@click.option("--fashion", type=FOLDER, help="Folder of Fashion-MNIST's idx files; default: leave it out.")
@click.option("--quick", is_flag=True, help="Use few images, only to check that it works.")
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


@evaluate.command("counterfactual")
@click.option("--work", type=FOLDER, default=Path("report/work"), show_default=True, help="Folder of cached trainings.")
@click.option("--quick", is_flag=True, help="Train a few tiny models, only to check that it works.")
@profile_option
@json_option
def evaluate_counterfactual(work: Path, quick: bool, profile: str, as_json: bool) -> None:
    """Retrain a small generator without the credited works, and measure what that changes.

    A stopped run resumes where it was: every training is kept in the folder of --work.

    Example: gmvaluator evaluate counterfactual --json
    """
    from evaluation.counterfactual.section import counterfactual
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    section = counterfactual(profile, quick, work)
    command = f"gmvaluator evaluate counterfactual --profile {profile}{' --quick' if quick else ''} --json"
    print_report(report(section.figures, command), as_json)


@evaluate.command("duplicates")
@click.option("--policy", default="calibrated@3", show_default=True, metavar="NAME@N", help="Policy that pays.")
@click.option("--quick", is_flag=True, help="Use few images, only to check that it works.")
@profile_option
@json_option
def evaluate_duplicates(policy: str, quick: bool, profile: str, as_json: bool) -> None:
    """Measure which distance separates near-duplicates from other works, and what adding copies of a work earns.

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


@evaluate.command("all")
@click.option("--out", type=FOLDER, default=Path("report"), show_default=True, help="Folder for the page.")
@click.option(
    "--quick", is_flag=True, help="Use few images, only to check that everything works, in under three minutes."
)
@click.option("--only", multiple=True, metavar="NAME", help="Run this benchmark alone; may be repeated.")
@click.option("--fashion", type=FOLDER, help="Folder of Fashion-MNIST's idx files; default: leave it out.")
@profile_option
@json_option
def evaluate_all(
    out: Path, quick: bool, only: tuple[str, ...], fashion: Path | None, profile: str, as_json: bool
) -> None:
    """Run every benchmark and write OUT/index.html, one page to look at, and OUT/results.json.

    A stopped run resumes where it was.

    Example: gmvaluator evaluate all --out report/
    """
    from evaluation.benchmarks import Settings, run_all
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    command = shlex.join(["gmvaluator", *sys.argv[1:]])
    result = run_all(Settings(profile, quick, out / "work", fashion), out, command, only)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"{len(result['figures'])} figures; open {out / 'index.html'}")


@click.command()
@click.option("--policy", "reference", default="mine@1", show_default=True, metavar="NAME@N", help="Policy to write.")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for the policy's file; default: DATA/policies, where `serve` looks first.",
)
@click.option(
    "--groups",
    type=click.Choice(["first", "nearest", "none"]),
    default="first",
    show_default=True,
    help="Count near-duplicates once, with the weight of their first or their nearest member; or each of them.",
)
@click.option(
    "--foreign",
    type=FOLDER,
    help="Folder of images without a source, from `evaluation.images.make_foreign_set`; default: the shipped ones.",
)
@click.option(
    "--hold-above", metavar="WIDTH", help="Hold back credits whose share has a wider interval than this, such as 0.5."
)
@click.option("--quick", is_flag=True, help="Use few images, only to check that it works; do not pay by the result.")
@collection_option
@place_option
@index_option
@profile_option
@json_option
def calibrate(
    reference: str,
    out: Path | None,
    groups: str,
    foreign: Path | None,
    hold_above: str | None,
    quick: bool,
    collection: str,
    place: DataLocation,
    index_url: str,
    profile: str,
    as_json: bool,
) -> None:
    """Fit a policy to derivatives of your own works, and write its file unless it is worse than the one in use.

    Works of the index are changed by known recipes, from their thumbnails, and the index is queried with each, and with
    foreign images, which have no source. The fit takes the numbers under which the known sources are likeliest: of
    distances of the whole image, and, for a profile that looks at parts, of windows and of verified regions. The works
    of half of the owners, and three recipes, are held out: on images made of them the policy has to be at least as
    likely as the one that the collection's generators have now. The exit code is 1 if it is not. The fit is repeated on
    resamples of whole owners, which give the policy's intervals.

    Example: gmvaluator calibrate --data ./gmvaluator-demo
    """
    from evaluation.known_source.policy_file import Extra, check_new, check_reference

    # What cannot work is refused before the models are loaded, which takes seconds, and used, which takes minutes.
    extra = Extra(None if groups == "none" else groups, hold_above)
    check_reference(reference, extra)
    path = (out or place.folder / "policies") / f"{reference}.toml"
    check_new(path)
    location = index_location(place.folder, index_url)
    require_index(location)
    calibration = _calibrate(path, place, location, collection, profile, quick, extra, foreign)
    if as_json:
        figures = {"policy": reference, "file": None if calibration.file is None else str(calibration.file),
                   "in_use": calibration.in_use, "figures": calibration.figures}  # fmt: skip
        click.echo(json.dumps(figures, indent=2))
    else:
        _print_calibration(calibration, reference)
    if calibration.file is None:
        raise Exit(1)


def _calibrate(
    path: Path,
    place: DataLocation,
    location: str | Path,
    collection: str,
    profile: str,
    quick: bool,
    extra: Extra,
    foreign: Path | None,
) -> Calibration:
    from evaluation.known_source.own_works import policies_in_use, read_own_works
    from gmvaluator.models.process_setup import prepare_process
    from gmvaluator.models.profiles import load_models, profile_identity

    identity = profile_identity(profile)
    own = replace(read_own_works(place, location, collection, identity), foreign=foreign)
    in_use = policies_in_use(place, collection, identity)
    prepare_process()
    from evaluation.known_source.calibration import Index
    from evaluation.known_source.calibration import calibrate as fit

    return fit(path, Index(location, collection, load_models(profile)), own, in_use, quick, extra)


def _print_calibration(calibration: Calibration, reference: str) -> None:
    figures = dict(calibration.figures)
    fitted, in_use = figures.pop("held_out_log_likelihood"), figures.pop("held_out_log_likelihood_in_use")
    for name, value in figures.items():
        click.echo(f"{name}: {value:.4g}")
    click.echo(
        f"log-likelihood of held-out works: {fitted:.4f} by {reference}, {in_use:.4f} by {calibration.in_use}, "
        "which is in use"
    )
    if calibration.file is None:
        click.echo(f"{reference} was not written: it explains held-out works worse")
        return
    click.echo(f"wrote {calibration.file}")
    click.echo(f"bind it by: gmvaluator generators add MODEL_VERSION --data-set NAME --policy {reference} --replace")


def print_report(value: dict[str, object], as_json: bool) -> None:
    """Print a report as JSON, or its figures one a line."""
    if as_json:
        click.echo(json.dumps(value, indent=2))
        return
    figures = value["figures"]
    assert isinstance(figures, dict)
    for name, figure in figures.items():
        click.echo(f"{name}: {figure:.4g}" if isinstance(figure, float) else f"{name}: {figure}")
