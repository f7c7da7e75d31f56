"""Imports point one way, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {"indexer", "attributor", "dashboard", "evaluation"}
ALLOWED = {"gmvaluator": set(), **{program: {"gmvaluator"} for program in PROGRAMS}}
PURE = ["valuation.py", "residual.py", "policy.py", "errors.py", "ports.py"]
HEAVY = {"torch", "timm", "grpc", "qdrant_client", "qdrant_edge", "sqlalchemy"}
FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = imported(path) & (PROGRAMS | {"gmvaluator", "tests"})
    assert ours <= ALLOWED[package] | {package}


@pytest.mark.parametrize("name", PURE)
def test_the_method_knows_no_library(name: str) -> None:
    assert not imported(ROOT / "gmvaluator" / name) & HEAVY


def test_relative_imports_are_not_used() -> None:
    for path in FILES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], path


def test_the_overview_imports_nothing_heavy() -> None:
    program = "import sys; sys.argv[1:] = ['--help']\nfrom gmvaluator.cli import gmvaluator\n"
    program += "gmvaluator(standalone_mode=False)\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {name.split(".")[0] for name in done.stderr.split()} & (HEAVY | {"numpy", "PIL"})
