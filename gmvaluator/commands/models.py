"""`gmvaluator models list|fetch|verify`."""

from __future__ import annotations

import json
import sys
from typing import Any

import rich_click as click

from gmvaluator.commands.options import json_option, variant_options
from gmvaluator.errors import MissingWeights
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.known_models import specs_of
from gmvaluator.models.specs import WeightFile
from gmvaluator.models.weight_files import ModelsFolder


@click.group()
def models() -> None:
    """List, fetch and verify the weight files of profile paper.

    Profile lite ships with its weights. The variants (--recall, --rerank, --quality) choose the files.

    Example: gmvaluator models list --rerank dreamsim:open_clip_vitb32
    """


@models.command(name="list")
@variant_options
@json_option
def list_files(choice: ProfileChoice, as_json: bool) -> None:
    """List the files that are needed, with their size, licence and SHA-256, and which are present.

    Example: gmvaluator models list --json
    """
    folder = ModelsFolder(choice.models)
    rows = [_row(file, folder) for file in specs_of(choice).files]
    if as_json:
        click.echo(json.dumps({"folder": str(choice.models.expanduser()), "files": rows}))
        return
    for row in rows:
        size = f"{row['size_mb']:,} MB" if row["size_mb"] else "size unknown"
        click.echo(f"{row['role']}: {row['path']} ({size}, {row['state']})")
        click.echo(f"    from {row['origin']}; {row['licence']}")
        click.echo(f"    sha256 {row['sha256'] or 'is recorded when the file is fetched'}")


def _row(file: WeightFile, folder: ModelsFolder) -> dict[str, Any]:
    """Return plain data of a file; size_mb is exact if the file is present, else an estimate."""
    path = folder.path(file)
    present = path.is_file()
    return {
        "role": file.role,
        "path": str(path),
        "state": "there" if present else "missing",
        "size_mb": round(path.stat().st_size / 1e6) if present else file.size_mb,
        "licence": file.licence,
        "origin": file.origin,
        "sha256": folder.known_sha256(file),
    }


@models.command()
@variant_options
@json_option
def fetch(choice: ProfileChoice, as_json: bool) -> None:
    """Fetch the missing files through the packages' own loaders, and record the SHA-256 of every file.

    The first fetch is trusted if the publisher names no hash; afterwards only files with the recorded hash are loaded.
    Files that are already present are recorded as they are.

    Example: gmvaluator models fetch --models ./weights
    """
    from gmvaluator.models.weight_files import fetch as fetch_file

    folder = ModelsFolder(choice.models)
    fetched = []
    for file in specs_of(choice).files:
        click.echo(f"{file.role}: {file.origin}", err=True)
        if fetch_file(file, folder):
            fetched.append(file.role)
    rows = [_row(file, folder) for file in specs_of(choice).files]
    if as_json:
        click.echo(json.dumps({"folder": str(choice.models.expanduser()), "fetched": fetched, "files": rows}))
    else:
        click.echo(f"{len(rows)} files are in {choice.models} and recorded; {len(fetched)} were fetched")


@models.command()
@variant_options
@json_option
def verify(choice: ProfileChoice, as_json: bool) -> None:
    """Compare every file with its recorded SHA-256, and check that it holds tensors and no code.

    The exit code is 1 if a file fails.

    Example: gmvaluator models verify --json
    """
    folder = ModelsFolder(choice.models)
    rows = [{**_row(file, folder), "fault": _fault(file, folder)} for file in specs_of(choice).files]
    faults = [str(row["fault"]) for row in rows if row["fault"]]
    if as_json:
        click.echo(json.dumps({"ok": not faults, "files": rows}))
    else:
        for fault in faults:
            click.echo(fault)
        click.echo(f"{len(rows) - len(faults)} of {len(rows)} files are as recorded")
    if faults:
        sys.exit(1)


def _fault(file: WeightFile, folder: ModelsFolder) -> str:
    """Return what is wrong with a file, or an empty text."""
    from gmvaluator.models.checkpoints import read_plain

    try:
        path = folder.verified(file, folder.recorded_sha256(file))
        if path.suffix != ".json":
            read_plain(path)
    except MissingWeights as error:
        return str(error)
    return ""
