"""Known vulnerabilities of what is pinned, by pip-audit, where an advisory service can be reached.

pip-audit calls an environment clean though it could look up none of its packages. Here what was not looked up is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.release.findings import Finding

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
