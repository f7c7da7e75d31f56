"""`gmvaluator calibrate`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from gmvaluator.commands.options import data_option, index_location, index_option, json_option, profile_option


@click.command()
@click.option("--policy", "reference", default="mine@1", show_default=True, metavar="NAME@N", help="To be made.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the policy's file; default: DATA/policies, where `serve` looks first.",
)
@click.option(
    "--groups",
    type=click.Choice(["first", "nearest", "none"]),
    default="first",
    show_default=True,
    help="Near-copies are one contributor that weighs what its first, or its nearest, member weighs; or none are.",
)
@click.option("--hold-above", metavar="WIDTH", help="Hold credits back whose share's interval is wider, such as 0.5.")
@click.option("--quick", is_flag=True, help="Few images: shows that it works; do not pay by the result.")
@data_option
@index_option
@profile_option
@json_option
def calibrate(
    reference: str,
    out: Path | None,
    groups: str,
    hold_above: str | None,
    quick: bool,
    data: Path,
    index_url: str,
    profile: str,
    as_json: bool,
) -> None:
    """Fit a policy to derivatives of works in an index that holds the sample, and write its file.

    The works of half of the sample's artists are changed by known recipes, and the index is asked for each; so are
    foreign images, which have no source. The temperature and the residual are those under which the known sources are
    likeliest. The other artists, and three recipes, are kept for the test. The fit is repeated on resamples of whole
    artists, from which the policy's intervals are made.

    Example: gmvaluator calibrate --data ./gmvaluator-demo
    """
    from evaluation.calibration.policy_file import Extra
    from evaluation.calibration.run import calibrate_policy
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    extra = Extra(None if groups == "none" else groups, hold_above)
    folder = out or data / "policies"
    path, figures = calibrate_policy(reference, index_location(data, index_url), profile, quick, folder, extra)
    if as_json:
        click.echo(json.dumps({"policy": reference, "file": str(path), "figures": figures}, indent=2))
        return
    click.echo(f"wrote {path}")
    for name, value in figures.items():
        click.echo(f"{name}: {value:.4g}")
    click.echo(f"bind it by: gmvaluator generators add MODEL_VERSION --data-set NAME --policy {reference}")
