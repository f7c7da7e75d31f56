"""Which distributions the product needs to run, as they are installed here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

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
