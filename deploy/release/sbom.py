"""The product's software bill of materials: `python -m deploy.release.sbom`, CycloneDX 1.6 as JSON.

It lists what is needed to run as it is installed here, with licences, and not what tests and tools need.

Which distributions the product needs to run, as they are installed here.

Licences of dependencies: what they are, and whether the product may depend on them.

What a check found: that all is well, that something is wrong, or that it could not be checked.
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


@dataclass(frozen=True, slots=True)
class Installed:
    """One distribution, and those it needs. Names are canonical."""

    name: NormalizedName
    version: str
    needs: tuple[NormalizedName, ...]
    distribution: metadata.Distribution


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def runtime_requirements() -> list[Requirement]:
    """What pyproject.toml asks for without extras."""
    return [Requirement(line) for line in project()["dependencies"]]


def every_requirement() -> list[Requirement]:
    """What it asks for with all extras, without the product itself."""
    extras = [line for lines in project()["optional-dependencies"].values() for line in lines]
    found = [*runtime_requirements(), *map(Requirement, extras)]
    return [one for one in found if canonicalize_name(one.name) != project()["name"]]


def runtime() -> dict[NormalizedName, Installed]:
    """Everything that is needed to run, by name. Raises PackageNotFoundError if something is not installed."""
    found: dict[NormalizedName, Installed] = {}
    done: set[tuple[NormalizedName, frozenset[str]]] = set()
    waiting = runtime_requirements()
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        distribution = metadata.distribution(name)
        needs = list(_applicable(distribution.requires or (), extras))
        before = found[name].needs if name in found else ()
        names = sorted({*before, *(canonicalize_name(one.name) for one in needs)})
        found[name] = Installed(name, distribution.version, tuple(names), distribution)
        waiting.extend(needs)
    return dict(sorted(found.items()))


def constraints() -> dict[NormalizedName, str]:
    """Name to version, as constraints.txt pins them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, _, version in pins}


def _applicable(lines: Iterable[str], extras: frozenset[str]) -> Iterator[Requirement]:
    """Requirements that count on this machine, with these extras."""
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


_FILE = Path(__file__).parent / "licences.toml"
_WORDS = re.compile(r"\s+(?:AND|OR|WITH)\s+|[()]")


@dataclass(frozen=True, slots=True)
class LicenceRules:
    """What licences.toml says."""

    allowed: frozenset[str]
    stated: Mapping[str, str]
    exceptions: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = _FILE) -> LicenceRules:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(frozenset(found["allowed"]), found["stated"], found["exceptions"])

    def complete(self, component: dict[str, Any]) -> None:
        """Give a CycloneDX component that names no licence the one that is known by hand."""
        known = self.stated.get(component["name"].lower().replace("_", "-"))
        if known is not None and not component.get("licenses"):
            kind = "name" if known.startswith("LicenseRef-") else "id"
            component["licenses"] = [{"license": {kind: known, "acknowledgement": "concluded"}}]

    def problem(self, name: str, licences: Sequence[str]) -> str | None:
        """What is wrong with a package's licences; None if nothing is. One that is allowed is enough where it has
        several: packages state theirs once as an expression and once as a classifier."""
        if any(fnmatch(name, pattern) for pattern in self.exceptions):
            return None
        if not licences:
            return f"{name} names no licence: look it up, and put it into deploy/release/licences.toml under [stated]"
        if any(self._allows(licence) for licence in licences):
            return None
        return f"{name} has {' and '.join(licences)}: not among those that deploy/release/licences.toml allows"

    def _allows(self, licence: str) -> bool:
        parts = [licence] if licence.startswith("License ::") else _WORDS.split(licence)
        return all(part.strip() in self.allowed for part in parts if part.strip())


def licences_of(component: Mapping[str, Any]) -> list[str]:
    """Licences of a CycloneDX component: expressions, SPDX identifiers or names."""
    found = component.get("licenses", ())
    return [
        one["expression"] if "expression" in one else one["license"].get("id") or one["license"]["name"]
        for one in found
    ]


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


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. wrong: what is, a line each. unchecked: why it could not be checked, or what of it could not."""

    check: str
    wrong: tuple[str, ...] = ()
    unchecked: str = ""

    @classmethod
    def of(cls, check: str, wrong: Iterable[str | None]) -> Finding:
        """From problems, of which None says that there is none."""
        return cls(check, tuple(one for one in wrong if one is not None))

    def text(self) -> str:
        """For people: a word in front, then a line for each problem."""
        word = "WRONG      " if self.wrong else "NOT CHECKED" if self.unchecked else "ok         "
        head = f"{word}  {self.check}" + (f": {self.unchecked}" if self.unchecked else "")
        return "\n".join([head, *(f"             {one}" for one in self.wrong)])
