"""Audit of the product's dependencies: `python -m deploy.release.audit`.

Some checks need no network: versions, pins and licences. Known vulnerabilities are looked up by pip-audit if an
advisory service can be reached. pip-audit reports an environment as clean even if it could look up none of its
packages; here packages that were not looked up are reported.
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
"""Versions by name."""

_LOWER = ("==", ">=", "~=", ">")
_WITH_TORCH = ("cuda-", "nvidia-", "triton", "setuptools")
"""Prefixes of distributions that torch requires at exact versions, which constraints.txt need not pin."""

CHECK = "no known vulnerabilities"
SERVICES = ("pypi", "osv")
TIMEOUT_S = 300
"""Timeout of one lookup, in seconds."""

_SHOWN = 5
"""Names of unknown packages in a message, at most."""


def offline() -> Iterator[Finding]:
    """Run the checks that need no network, one after the other."""
    yield consistent()
    yield Finding.of("every requirement has a lower bound", map(bound_problem, every_requirement()))
    pins = constraints()
    yield Finding.of(
        "pins are within the requirements", (pin_problem(requirement, pins) for requirement in every_requirement())
    )
    installed = {name: distribution.version for name, distribution in runtime().items()}
    yield Finding.of("what is installed is what is pinned", installed_problems(installed, pins))
    rules, bill = LicenceRules.read(), bill_of_materials()
    problems = (
        rules.problem(canonicalize_name(component["name"]), licences_of(component)) for component in bill["components"]
    )
    yield Finding.of("licences are allowed", problems)


def consistent() -> Finding:
    """Check the installed distributions by `pip check`."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    return Finding("what is installed fits together", tuple(lines) if done.returncode else ())


def bound_problem(requirement: Requirement) -> str | None:
    """Return the problem of a requirement without a lower bound, or None."""
    # Without a lower bound pip may go back years to find a version that fits.
    if any(specifier.operator in _LOWER for specifier in requirement.specifier):
        return None
    return f"{requirement} has no lower bound: give the oldest version that was tried"


def pin_problem(requirement: Requirement, pins: Pins) -> str | None:
    """Return the problem of a requirement that is not pinned at a version it allows, or None."""
    pin = pins.get(canonicalize_name(requirement.name))
    if pin is None:
        return f"{requirement.name} is not pinned: add it to constraints.txt"
    if pin not in requirement.specifier:
        return f"{requirement.name} is pinned at {pin}, which {requirement} does not allow"
    return None


def installed_problems(installed: Pins, pins: Pins) -> Iterator[str]:
    """Yield the distributions that are not pinned, or not installed as pinned."""
    for name, version in installed.items():
        pin = pins.get(name)
        if pin is None and not name.startswith(_WITH_TORCH):
            yield f"{name} {version} is installed and not pinned: add it to constraints.txt"
        elif pin is not None and pin != version:
            yield f"{name} {version} is installed, {pin} is pinned: install by `make setup`"


def advisories(installed: Mapping[str, str]) -> Finding:
    """Look up known vulnerabilities, at one service after the other until one knows all packages."""
    problems = []
    for service in SERVICES:
        report = _audit_report(service, installed)
        finding = Finding(CHECK, (), report) if isinstance(report, str) else read_report(report)
        if not finding.unchecked or finding.wrong:
            return finding
        problems.append(f"{service}: {finding.unchecked}")
    return Finding(CHECK, (), "; ".join(problems))


def read_report(report: Mapping[str, Any]) -> Finding:
    """Convert pip-audit's JSON report."""
    packages = report["dependencies"]
    wrong = [
        f"{package['name']} {package['version']}: {advisory['id']}, "
        f"fixed in {', '.join(advisory['fix_versions']) or 'no version'}"
        for package in packages
        for advisory in package.get("vulns", ())
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if not skipped:
        return Finding(CHECK, tuple(wrong))
    names = ", ".join(skipped[:_SHOWN]) + (", ..." if len(skipped) > _SHOWN else "")
    return Finding(CHECK, tuple(wrong), f"{len(skipped)} of {len(packages)} packages are not known there ({names})")


def _audit_report(service: str, installed: Mapping[str, str]) -> dict[str, Any] | str:
    """Return pip-audit's report by one service, or the reason why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        pins, target = Path(folder) / "pins.txt", Path(folder) / "report.json"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in installed.items()), encoding="utf-8")
        arguments = ["--requirement", str(pins), "--no-deps", "--disable-pip", "--vulnerability-service", service]
        arguments += ["--progress-spinner", "off", "--format", "json", "--output", str(target)]
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                [sys.executable, "-m", "pip_audit", *arguments],
                capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_S} s"
        if not target.exists():
            lines = done.stderr.strip().splitlines()
            return lines[-1][:200] if lines else f"pip-audit ended with {done.returncode}"
        report: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return report


@click.command()
@click.option("--require-advisories", is_flag=True, help="Also fail if vulnerabilities could not be looked up.")
@click.option("--offline", "only_offline", is_flag=True, help="Skip the check that needs a network.")
def main(require_advisories: bool, only_offline: bool) -> None:
    """Run each check and print its result; exit with 1 if something is wrong."""
    findings = []
    for finding in offline():
        click.echo(finding.text())
        findings.append(finding)
    if not only_offline:
        finding = advisories({name: distribution.version for name, distribution in runtime().items()})
        click.echo(finding.text())
        findings.append(finding)
    unchecked = any(finding.unchecked for finding in findings)
    sys.exit(1 if any(finding.wrong for finding in findings) or (require_advisories and unchecked) else 0)


if __name__ == "__main__":
    main()
