"""Software bill of materials of the product (CycloneDX 1.6, JSON): `python -m deploy.release.sbom`.

It lists the installed distributions that the product needs to run, with their licences, but not those that tests and
tools need. The module also has the rules for licences, and the type of a check's result.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from gmvaluator import __version__

ROOT = Path(__file__).parents[2]
_LICENCES = Path(__file__).parent / "licences.toml"
_OPERATORS = re.compile(r"\s+(?:AND|OR|WITH)\s+|[()]")


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed distribution and the names of those it needs. Names are canonical."""

    name: NormalizedName
    version: str
    needs: tuple[NormalizedName, ...]
    distribution: metadata.Distribution


def project() -> dict[str, Any]:
    """Return the table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def runtime_requirements() -> list[Requirement]:
    """Return the requirements in pyproject.toml without extras."""
    return [Requirement(line) for line in project()["dependencies"]]


def every_requirement() -> list[Requirement]:
    """Return the requirements with all extras, without the product itself."""
    extras = [line for lines in project()["optional-dependencies"].values() for line in lines]
    requirements = [*runtime_requirements(), *map(Requirement, extras)]
    own_name = project()["name"]
    return [requirement for requirement in requirements if canonicalize_name(requirement.name) != own_name]


def runtime() -> dict[NormalizedName, Installed]:
    """Return every distribution that the product needs to run, by name, sorted.

    Raises PackageNotFoundError if one is not installed.
    """
    installed: dict[NormalizedName, Installed] = {}
    done: set[tuple[NormalizedName, frozenset[str]]] = set()
    pending = runtime_requirements()
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        distribution = metadata.distribution(name)
        needs = list(_applicable(distribution.requires or (), extras))
        # The same distribution may be needed again with other extras.
        known = installed[name].needs if name in installed else ()
        names = sorted({*known, *(canonicalize_name(need.name) for need in needs)})
        installed[name] = Installed(name, distribution.version, tuple(names), distribution)
        pending.extend(needs)
    return dict(sorted(installed.items()))


def constraints() -> dict[NormalizedName, str]:
    """Return the versions pinned in constraints.txt, by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, _, version in pins}


def _applicable(lines: Iterable[str], extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield the requirements whose markers apply to this machine and these extras."""
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


@dataclass(frozen=True, slots=True)
class LicenceRules:
    """The rules of licences.toml.

    allowed: licences that the product may depend on. stated: licence by package, for packages that declare none.
    exceptions: reason by pattern of package names that are not checked.
    """

    allowed: frozenset[str]
    stated: Mapping[str, str]
    exceptions: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = _LICENCES) -> LicenceRules:
        """Read the rules from a file."""
        rules = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(frozenset(rules["allowed"]), rules["stated"], rules["exceptions"])

    def complete(self, component: dict[str, Any]) -> None:
        """Add the stated licence to a CycloneDX component that declares none."""
        stated = self.stated.get(component["name"].lower().replace("_", "-"))
        if stated is not None and not component.get("licenses"):
            kind = "name" if stated.startswith("LicenseRef-") else "id"
            component["licenses"] = [{"license": {kind: stated, "acknowledgement": "concluded"}}]

    def problem(self, name: str, licences: Sequence[str]) -> str | None:
        """Return the problem of a package's licences, or None."""
        if any(fnmatch(name, pattern) for pattern in self.exceptions):
            return None
        if not licences:
            return f"{name} names no licence: look it up, and put it into deploy/release/licences.toml under [stated]"
        # One allowed licence is enough: packages declare theirs both as an expression and as a classifier.
        if any(self._allows(licence) for licence in licences):
            return None
        return f"{name} has {' and '.join(licences)}: not among those that deploy/release/licences.toml allows"

    def _allows(self, licence: str) -> bool:
        parts = [licence] if licence.startswith("License ::") else _OPERATORS.split(licence)
        return all(part.strip() in self.allowed for part in parts if part.strip())


def licences_of(component: Mapping[str, Any]) -> list[str]:
    """Return the licences of a CycloneDX component, as expressions, SPDX identifiers or names."""
    return [
        entry["expression"] if "expression" in entry else entry["license"].get("id") or entry["license"]["name"]
        for entry in component.get("licenses", ())
    ]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    wrong: problems, one line each. unchecked: why the check, or a part of it, could not be made; empty otherwise.
    """

    check: str
    wrong: tuple[str, ...] = ()
    unchecked: str = ""

    @classmethod
    def of(cls, check: str, wrong: Iterable[str | None]) -> Finding:
        """Make a finding from problems; None stands for no problem."""
        return cls(check, tuple(problem for problem in wrong if problem is not None))

    def text(self) -> str:
        """Return the finding as text: a status, the check, and a line for each problem."""
        word = "WRONG      " if self.wrong else "NOT CHECKED" if self.unchecked else "ok         "
        head = f"{word}  {self.check}" + (f": {self.unchecked}" if self.unchecked else "")
        return "\n".join([head, *(f"             {problem}" for problem in self.wrong)])


def bill_of_materials() -> dict[str, Any]:
    """Return cyclonedx-py's description of the environment, reduced to what the product needs, with all licences."""
    bill, needed, rules = _environment(), runtime(), LicenceRules.read()
    components = {canonicalize_name(component["name"]): component for component in bill["components"]}
    kept = {name: components[name] for name in needed}
    for component in kept.values():
        rules.complete(component)
    bill["metadata"]["component"]["version"] = __version__
    bill["components"] = list(kept.values())
    bill["dependencies"] = _dependencies(bill["metadata"]["component"]["bom-ref"], kept, needed)
    return bill


def schema_problem(text: str) -> str | None:
    """Return the first violation of CycloneDX's schema in `text`, or None."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return None if problem is None else str(problem)


def _environment() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "environment.json"
        arguments = ["-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml"), "--no-validate"]
        arguments += ["--output-reproducible", "--spec-version", "1.6", "--output-file", str(target), sys.executable]
        subprocess.run([sys.executable, *arguments], check=True, stderr=subprocess.DEVNULL)  # noqa: S603 - our own words
        bill: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return bill


def _dependencies(
    root: str, components: dict[NormalizedName, dict[str, Any]], needed: dict[NormalizedName, Installed]
) -> list[dict[str, Any]]:
    """Return the dependencies of the product, whose reference is `root`, and of each component."""
    reference = {name: component["bom-ref"] for name, component in components.items()}
    own = sorted({reference[canonicalize_name(requirement.name)] for requirement in runtime_requirements()})
    rest = [
        {"ref": reference[name], "dependsOn": [reference[need] for need in distribution.needs]} if distribution.needs
        else {"ref": reference[name]}
        for name, distribution in needed.items()
    ]  # fmt: skip
    return [{"ref": root, "dependsOn": own}, *rest]


@click.command()
@click.option(
    "--output", default="dist/gmvaluator.cdx.json", show_default=True, type=click.Path(dir_okay=False, path_type=Path)
)
@click.option(
    "--validate/--no-validate",
    default=True,
    show_default=True,
    help="Validate by CycloneDX's schema, which takes 20 seconds.",
)
def main(output: Path, validate: bool) -> None:
    """Write the software bill of materials."""
    text = json.dumps(bill_of_materials(), indent=2)
    if validate:
        problem = schema_problem(text)
        if problem is not None:
            raise click.ClickException(f"what was made is no CycloneDX: {problem}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text + "\n", encoding="utf-8")
    click.echo(f"{output}: {len(json.loads(text)['components'])} components")


if __name__ == "__main__":
    main()
