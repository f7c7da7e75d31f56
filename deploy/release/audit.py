"""Checks of the dependencies that need no network.

Known vulnerabilities of what is pinned, by pip-audit, where an advisory service can be reached.

pip-audit calls an environment clean though it could look up none of its packages. Here what was not looked up is said.

`python -m deploy.release.audit`: what the product is made of, checked with and without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from deploy.release.sbom import (
    Finding,
    LicenceRules,
    bill_of_materials,
    constraints,
    every_requirement,
    licences_of,
    runtime,
)

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


CHECK = "no known vulnerabilities"
SERVICES = ("pypi", "osv")
TIMEOUT_S = 300
_SHOWN = 5


def advisories(installed: Mapping[str, str]) -> Finding:
    """Ask one service after the other until one knows the packages."""
    problems = []
    for service in SERVICES:
        report = _asked(service, installed)
        finding = Finding(CHECK, (), report) if isinstance(report, str) else read_report(report)
        if not finding.unchecked or finding.wrong:
            return finding
        problems.append(f"{service}: {finding.unchecked}")
    return Finding(CHECK, (), "; ".join(problems))


def read_report(report: Mapping[str, Any]) -> Finding:
    """What pip-audit's JSON says."""
    packages = report["dependencies"]
    wrong = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for one in packages
        for found in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if not skipped:
        return Finding(CHECK, tuple(wrong))
    names = ", ".join(skipped[:_SHOWN]) + (", ..." if len(skipped) > _SHOWN else "")
    return Finding(CHECK, tuple(wrong), f"{len(skipped)} of {len(packages)} packages are not known there ({names})")


def _asked(service: str, installed: Mapping[str, str]) -> dict[str, Any] | str:
    """pip-audit's report, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, target = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in installed.items()), encoding="utf-8")
        words = ["--requirement", str(wanted), "--no-deps", "--disable-pip", "--vulnerability-service", service]
        words += ["--progress-spinner", "off", "--format", "json", "--output", str(target)]
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                [sys.executable, "-m", "pip_audit", *words],
                capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_S} s"
        if not target.exists():
            lines = done.stderr.strip().splitlines()
            return lines[-1][:200] if lines else f"pip-audit ended with {done.returncode}"
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


@click.command()
@click.option("--require-advisories", is_flag=True, help="Fail also if vulnerabilities could not be looked up.")
@click.option("--offline", "only_offline", is_flag=True, help="Ask nobody.")
def main(require_advisories: bool, only_offline: bool) -> None:
    """Print each check; exit 1 if something is wrong."""
    findings = []
    for finding in offline():
        click.echo(finding.text())
        findings.append(finding)
    if not only_offline:
        found = advisories({name: one.version for name, one in runtime().items()})
        click.echo(found.text())
        findings.append(found)
    unchecked = any(finding.unchecked for finding in findings)
    sys.exit(1 if any(finding.wrong for finding in findings) or (require_advisories and unchecked) else 0)


if __name__ == "__main__":
    main()
