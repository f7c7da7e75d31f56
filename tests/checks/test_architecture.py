"""Imports point one way, folders and modules form no cycle, and light modules stay light."""

import ast
import re
import subprocess
import sys

import pytest

from tests.checks.imports import (
    ROOT,
    cycles,
    folder_arrows,
    imported_names,
    module_arrows,
    modules,
    named_in_strings,
    paths_by_name,
)

PROGRAMS = {"indexer", "attributor", "dashboard", "evaluation"}
PURE = [
    "errors.py",
    "ports.py",
    *(f"valuation/{name}.py" for name in ("parameters", "policy", "residual", "weights")),
]
HEAVY = {"torch", "timm", "grpc", "qdrant_client", "qdrant_edge", "sqlalchemy"}
FOLDERS = sorted({module.folder for module in modules()})
CLICK_ROOMS = re.compile(r"gmvaluator/commands/|\w+/cli(/|\.py$)|evaluation/bench/")
"""Where commands are defined. The benchmarks are programs of their own, each run as `python -m`."""

ENTRY = "gmvaluator/commands/main.py"
"""The console script: it names every command by a string, so that only the one that is called is imported."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_programs_do_not_import_each_other_or_the_tests(folder: str) -> None:
    package = folder.split("/")[0]
    others = (PROGRAMS | {"tests"}) - {package}
    offenders = {
        f"{module.path} -> {name}"
        for module in modules()
        if module.folder == folder
        for name, _ in imported_names(module.tree)
        if name.split(".")[0] in others
    }
    assert not offenders


def test_folders_form_no_cycle() -> None:
    assert not cycles(), [
        (here, there, folder_arrows()[here][there])
        for group in cycles()
        for here in group
        for there in group
        if there in folder_arrows().get(here, {})
    ]


def test_modules_form_no_cycle() -> None:
    assert not [path for path in module_arrows() if path in modules_below(path)]


def modules_below(path: str) -> set[str]:
    """Every module that `path` imports when it is imported, directly or not."""
    seen: set[str] = set()
    waiting = list(module_arrows()[path])
    while waiting:
        below = waiting.pop()
        if below not in seen:
            seen.add(below)
            waiting += module_arrows()[below]
    return seen


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_command_modules_import_click(folder: str) -> None:
    offenders = {
        module.path
        for module in modules()
        if module.folder == folder and not CLICK_ROOMS.match(module.path)
        if any(name.split(".")[0] in {"click", "rich_click"} for name, _ in imported_names(module.tree))
    }
    assert not offenders


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_string_names_a_module_of_a_higher_room(folder: str) -> None:
    offenders = {
        f"{module.path} -> {name}"
        for module in modules()
        if module.folder == folder and module.path != ENTRY
        for name in named_in_strings(module.tree)
        if is_higher(name, folder)
    }
    assert not offenders


def is_higher(name: str, folder: str) -> bool:
    """Return whether the named module is in a folder that imports `folder`, or in the tests."""
    if name.startswith("tests."):
        return True
    path = paths_by_name().get(name) or paths_by_name().get(name.rpartition(".")[0])
    if path is None or path.endswith("__init__.py"):
        return False
    room = next(module.folder for module in modules() if module.path == path)
    return room != folder and folder in rooms_below(room)


def rooms_below(folder: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(folder_arrows().get(folder, ()))
    while waiting:
        below = waiting.pop()
        if below not in seen:
            seen.add(below)
            waiting += folder_arrows().get(below, ())
    return seen


@pytest.mark.parametrize("name", PURE)
def test_the_method_knows_no_library(name: str) -> None:
    tree = ast.parse((ROOT / "gmvaluator" / name).read_text(encoding="utf-8"))
    assert not {imported.split(".")[0] for imported, _ in imported_names(tree)} & HEAVY


def test_relative_imports_are_not_used() -> None:
    offenders = {
        module.path
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert not offenders


def test_the_overview_imports_nothing_heavy() -> None:
    program = "import sys; sys.argv[1:] = ['--help']\nfrom gmvaluator.commands.main import gmvaluator\n"
    program += "gmvaluator(standalone_mode=False)\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {name.split(".")[0] for name in done.stderr.split()} & (HEAVY | {"numpy", "PIL"})


def test_unit_tests_start_no_process_and_import_no_torch() -> None:
    forbidden = re.compile(r"^\s*(?:import|from) (?:subprocess|multiprocessing|torch)\b", re.MULTILINE)
    files = sorted((ROOT / "tests" / "unit").rglob("*.py"))
    assert files
    assert [path.name for path in files if forbidden.search(path.read_text(encoding="utf-8"))] == []
