"""What is checked before a release: that each check can fail, and that today none does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.release.audit import bound_problem, installed_problems, offline, pin_problem, read_report
from deploy.release.sbom import (
    ROOT,
    Finding,
    LicenceRules,
    bill_of_materials,
    constraints,
    licences_of,
    project,
    runtime,
    runtime_requirements,
    schema_problem,
)
from gmvaluator import __version__

HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((unreleased|\d{4}-\d{2}-\d{2})\)$")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return bill_of_materials()


def test_the_bill_lists_every_runtime_dependency_with_version_and_licence(bill: dict[str, Any]) -> None:
    listed = {canonicalize_name(one["name"]): one for one in bill["components"]}
    needed = runtime()
    assert listed.keys() == needed.keys()
    for requirement in runtime_requirements():
        assert canonicalize_name(requirement.name) in listed
    for name, one in listed.items():
        assert one["version"] == needed[name].version
        assert licences_of(one), name
        assert one["purl"].startswith("pkg:pypi/")
    assert not {"pip-audit", "hypothesis", "mypy", "cyclonedx-bom"} & listed.keys()


def test_the_bill_is_of_this_version_and_says_who_needs_whom(bill: dict[str, Any]) -> None:
    product = bill["metadata"]["component"]
    assert (product["name"], product["version"]) == ("gmvaluator", __version__)
    references = {one["bom-ref"] for one in bill["components"]}
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert needs.keys() == references | {product["bom-ref"]}
    assert len(needs[product["bom-ref"]]) == len(project()["dependencies"])
    assert {one for those in needs.values() for one in those} == references


def test_the_bill_keeps_to_the_schema(bill: dict[str, Any]) -> None:
    """Of a few components: the schema's validator takes seconds for all."""
    some = bill["components"][:5]
    assert schema_problem(json.dumps({**bill, "components": some, "dependencies": []})) is None
    assert schema_problem(json.dumps({**bill, "components": [{"name": "x"}], "dependencies": []})) is not None


def test_dependencies_are_sound() -> None:
    assert [one.text() for one in offline() if one.wrong] == []


@pytest.mark.parametrize(("line", "sound"), [("a", False), ("a<2", False), ("a>=1", True), ("a==1", True)])
def test_a_requirement_without_a_lower_bound_is_found(line: str, sound: bool) -> None:
    assert (bound_problem(Requirement(line)) is None) is sound


def test_a_pin_that_is_absent_or_not_allowed_is_found() -> None:
    pins = {canonicalize_name("a"): "1.0"}
    assert pin_problem(Requirement("a>=1"), pins) is None
    assert "does not allow" in (pin_problem(Requirement("a>=2"), pins) or "")
    assert "not pinned" in (pin_problem(Requirement("b>=1"), pins) or "")


def test_what_is_installed_otherwise_than_pinned_is_found() -> None:
    name, other, torchs = map(canonicalize_name, ("a", "b", "nvidia-nccl-cu13"))
    found = list(installed_problems({name: "1.0", other: "1", torchs: "2"}, {name: "1.1"}))
    assert len(found) == 2
    assert "1.1 is pinned" in found[0]
    assert "b 1 is installed and not pinned" in found[1]
    assert constraints()[canonicalize_name("torch")]


@pytest.mark.parametrize(
    ("name", "licences", "sound"),
    [
        ("a", ["MIT"], True),
        ("a", ["MIT AND Apache-2.0 WITH LLVM-exception"], True),
        ("a", ["MIT AND (AGPL-3.0-only OR MIT)"], False),
        ("a", ["AGPL-3.0-only"], False),
        ("a", ["License :: OSI Approved :: BSD License"], True),
        ("a", ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], False),
        ("a", [], False),
        ("pyiqa", ["PolyForm-Noncommercial-1.0.0"], True),
        ("nvidia-nccl-cu13", ["LicenseRef-NVIDIA-Proprietary"], True),
    ],
)
def test_a_licence_that_is_not_allowed_is_found(name: str, licences: list[str], sound: bool) -> None:
    assert (LicenceRules.read().problem(name, licences) is None) is sound


def test_no_licence_rule_is_left_over(bill: dict[str, Any]) -> None:
    """Those of torch's CUDA build are needed where it is installed alone."""
    names, rules = {canonicalize_name(one["name"]) for one in bill["components"]}, LicenceRules.read()
    assert {name for name in rules.stated if rules.problem(name, []) is not None} <= names


def test_a_vulnerability_is_found_and_what_was_not_looked_up_is_said() -> None:
    known = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "aliases": []}]}
    clean, unknown = {"name": "b", "version": "1", "vulns": []}, {"name": "c", "skip_reason": "not found"}
    assert read_report({"dependencies": [clean]}) == Finding("no known vulnerabilities")
    assert "PYSEC-1, fixed in 2" in read_report({"dependencies": [known, clean]}).text()
    half = read_report({"dependencies": [clean, unknown]})
    assert half.text().startswith("NOT CHECKED")
    assert "1 of 2" in half.unchecked
    assert read_report({"dependencies": [known, unknown]}).wrong


def test_the_version_stands_in_one_place_and_the_changelog_begins_with_it() -> None:
    assert project()["dynamic"] == ["version"]
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    versions = [HEADING.match(line) for line in lines if line.startswith("## ")]
    assert all(versions)
    assert versions[0] is not None
    assert versions[0][1] == __version__
    assert {line.removeprefix("### ") for line in lines if line.startswith("### ")} <= KINDS
    places = [path for path in tracked_sources() if f'"{__version__}"' in path.read_text(encoding="utf-8")]
    assert places == [ROOT / "gmvaluator" / "__init__.py"]


def tracked_sources() -> list[Path]:
    programs = ("gmvaluator", "indexer", "attributor", "dashboard", "evaluation", "release")
    return sorted(path for name in programs for path in (ROOT / name).rglob("*.py"))
