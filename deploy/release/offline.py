"""Checks of the dependencies that need no network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from deploy.release.closure import constraints, every_requirement, runtime
from deploy.release.findings import Finding
from deploy.release.licences import LicenceRules, licences_of
from deploy.release.sbom import bill_of_materials

Pins = dict[NormalizedName, str]
"""Name to version."""

_LOWER = ("==", ">=", "~=", ">")
_WITH_TORCH = ("cuda-", "nvidia-", "triton", "setuptools")
"""What torch alone brings, for which its own requirements are pins: not in constraints.txt."""


def offline() -> Iterator[Finding]:
    """Every check, one after the other."""
    yield consistent()
    yield Finding.of("every requirement has a lower bound", map(bound_problem, every_requirement()))
    pins = constraints()
    yield Finding.of("pins are within the requirements", (pin_problem(one, pins) for one in every_requirement()))
    installed = {name: one.version for name, one in runtime().items()}
    yield Finding.of("what is installed is what is pinned", installed_problems(installed, pins))
    rules, bill = LicenceRules.read(), bill_of_materials()
    problems = (rules.problem(canonicalize_name(one["name"]), licences_of(one)) for one in bill["components"])
    yield Finding.of("licences are allowed", problems)


def consistent() -> Finding:
    """pip's own look at what is installed."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    return Finding("what is installed fits together", tuple(lines) if done.returncode else ())


def bound_problem(requirement: Requirement) -> str | None:
    """Without a lower bound pip may go back years to find something that fits."""
    if any(one.operator in _LOWER for one in requirement.specifier):
        return None
    return f"{requirement} has no lower bound: give the oldest version that was tried"


def pin_problem(requirement: Requirement, pins: Pins) -> str | None:
    """A requirement is pinned, at a version that it allows."""
    pin = pins.get(canonicalize_name(requirement.name))
    if pin is None:
        return f"{requirement.name} is not pinned: add it to constraints.txt"
    if pin not in requirement.specifier:
        return f"{requirement.name} is pinned at {pin}, which {requirement} does not allow"
    return None


def installed_problems(installed: Pins, pins: Pins) -> Iterator[str]:
    """Everything needed to run is pinned, and installed as pinned."""
    for name, version in installed.items():
        pin = pins.get(name)
        if pin is None and not name.startswith(_WITH_TORCH):
            yield f"{name} {version} is installed and not pinned: add it to constraints.txt"
        elif pin is not None and pin != version:
            yield f"{name} {version} is installed, {pin} is pinned: install by `make setup`"
