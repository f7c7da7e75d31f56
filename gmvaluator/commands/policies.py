"""`gmvaluator policies list|show`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.commands.options import data_option, json_option
from gmvaluator.errors import InvalidPolicy


@click.group()
def policies() -> None:
    """List the policies by which images may be valued, and show one.

    Example: gmvaluator policies list
    """


@policies.command("list")
@data_option
@json_option
def list_(data: Path, as_json: bool) -> None:
    """List the shipped policies and those in DATA/policies, with the profile that each was fitted to.

    Example: gmvaluator policies list --json
    """
    rows = [_row(reference, file, data) for reference, file in _files(data)]
    if as_json:
        click.echo(json.dumps({"policies": rows}))
        return
    for row in rows:
        fault = f"CANNOT BE USED: {row['fault']}" if row["fault"] else row["description"]
        click.echo(f"{row['policy']}: {fault} ({'shipped' if row['shipped'] else row['file']})")


@policies.command()
@click.argument("policy")
@data_option
@json_option
def show(policy: str, data: Path, as_json: bool) -> None:
    """Show the parameters of POLICY, NAME@N, as they are kept in the evidence of every posting.

    Example: gmvaluator policies show paper@1
    """
    from gmvaluator.valuation.policy import load_policy

    parameters = load_policy(policy, _folder(data)).parameters()
    if as_json:
        click.echo(json.dumps(parameters))
        return
    for name, value in parameters.items():
        click.echo(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")


def _folder(data: Path) -> Path:
    from gmvaluator.catalogue.store import POLICY_FOLDER

    return data / POLICY_FOLDER


def _files(data: Path) -> list[tuple[str, Path]]:
    from gmvaluator.valuation.policy import policy_files

    return sorted(policy_files(_folder(data)).items())


def _row(reference: str, file: Path, data: Path) -> dict[str, Any]:
    """Return what a list says of a policy; `fault` is why it cannot be used, or empty."""
    from gmvaluator.valuation.policy import load_policy

    row = {"policy": reference, "file": str(file), "shipped": not file.is_relative_to(_folder(data))}
    try:
        policy = load_policy(reference, _folder(data))
    except InvalidPolicy as error:
        return {**row, "description": "", "profile_hash": None, "fault": str(error)}
    description = str(tomllib.loads(file.read_text(encoding="utf-8")).get("description", ""))
    return {**row, "description": description, "profile_hash": policy.profile, "fault": ""}
