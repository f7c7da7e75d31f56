"""`gmvaluator evaluate all`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from gmvaluator.commands.options import json_option, profile_option

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("all")
@click.option("--out", type=FOLDER, default=Path("report"), show_default=True, help="Folder for the page.")
@click.option("--quick", is_flag=True, help="Few images: shows that everything works, in under three minutes.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this benchmark alone; may be repeated.")
@click.option("--fashion", type=FOLDER, help="Folder of Fashion-MNIST's idx files; default: it is left out.")
@profile_option
@json_option
def evaluate_all(
    out: Path, quick: bool, only: tuple[str, ...], fashion: Path | None, profile: str, as_json: bool
) -> None:
    """Run every benchmark and write OUT/index.html, one page to look at, and OUT/results.json.

    A run that was stopped is taken up again where it was.

    Example: gmvaluator evaluate all --out report/
    """
    import json
    import shlex
    import sys

    from evaluation.full_report.everything import Settings, run_all
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    command = shlex.join(["gmvaluator", *sys.argv[1:]])
    result = run_all(Settings(profile, quick, out / "work", fashion), out, command, only)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(f"{len(result['figures'])} figures; open {out / 'index.html'}")
