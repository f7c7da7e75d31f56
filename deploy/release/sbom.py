"""The product's software bill of materials: `python -m deploy.release.sbom`, CycloneDX 1.6 as JSON.

It lists what is needed to run as it is installed here, with licences, and not what tests and tools need.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from packaging.utils import NormalizedName, canonicalize_name

from deploy.release.closure import ROOT, Installed, runtime, runtime_requirements
from deploy.release.licences import LicenceRules
from gmvaluator import __version__


@click.command()
@click.option(
    "--output", default="dist/gmvaluator.cdx.json", show_default=True, type=click.Path(dir_okay=False, path_type=Path)
)
@click.option("--validate/--no-validate", default=True, show_default=True, help="By CycloneDX's schema; 20 seconds.")
def main(output: Path, validate: bool) -> None:
    """Write the bill of materials."""
    text = json.dumps(bill_of_materials(), indent=2)
    if validate:
        problem = schema_problem(text)
        if problem is not None:
            raise click.ClickException(f"what was made is no CycloneDX: {problem}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text + "\n", encoding="utf-8")
    click.echo(f"{output}: {len(json.loads(text)['components'])} components")


def bill_of_materials() -> dict[str, Any]:
    """The environment as cyclonedx-py describes it, cut to what the product needs, with licences completed."""
    bill, needed, rules = _environment(), runtime(), LicenceRules.read()
    components = {canonicalize_name(one["name"]): one for one in bill["components"]}
    kept = {name: components[name] for name in needed}
    for component in kept.values():
        rules.complete(component)
    bill["metadata"]["component"]["version"] = __version__
    bill["components"] = list(kept.values())
    bill["dependencies"] = _dependencies(bill["metadata"]["component"]["bom-ref"], kept, needed)
    return bill


def schema_problem(text: str) -> str | None:
    """What CycloneDX's schema finds wrong; None if nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return None if problem is None else str(problem)


def _environment() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "environment.json"
        words = ["-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml"), "--no-validate"]
        words += ["--output-reproducible", "--spec-version", "1.6", "--output-file", str(target), sys.executable]
        subprocess.run([sys.executable, *words], check=True, stderr=subprocess.DEVNULL)  # noqa: S603 - our own words
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


def _dependencies(
    root: str, components: dict[NormalizedName, dict[str, Any]], needed: dict[NormalizedName, Installed]
) -> list[dict[str, Any]]:
    reference = {name: component["bom-ref"] for name, component in components.items()}
    own = sorted({reference[canonicalize_name(one.name)] for one in runtime_requirements()})
    rest = [
        {"ref": reference[name], "dependsOn": [reference[need] for need in one.needs]} if one.needs
        else {"ref": reference[name]}
        for name, one in needed.items()
    ]  # fmt: skip
    return [{"ref": root, "dependsOn": own}, *rest]


if __name__ == "__main__":
    main()
