"""`python -m deploy.release.audit`: what the product is made of, checked with and without a network."""

from __future__ import annotations

import sys

import click

from deploy.release.advisories import advisories
from deploy.release.closure import runtime
from deploy.release.offline import offline


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
