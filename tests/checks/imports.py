"""The import graph of the repository, read from the source without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
PACKAGES = ("gmvaluator", "indexer", "attributor", "dashboard", "evaluation")
GENERATED = "gmvaluator/v1/"
_DOTTED = re.compile(r"(?:gmvaluator|indexer|attributor|dashboard|evaluation|tests)(?:\.[a-z_][a-z_0-9]*)+")


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its path below the root, and its syntax tree."""

    path: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """The folder that holds the module; an entry point `__main__` is a room of its own, above all others."""
        path = PurePosixPath(self.path)
        return str(path) if path.name == "__main__.py" else str(path.parent)

    @property
    def name(self) -> str:
        return dotted(self.path)


def dotted(path: str) -> str:
    """`gmvaluator/ledger/__init__.py` to `gmvaluator.ledger`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def modules() -> tuple[Module, ...]:
    """Every hand-written module of the product, sorted by path."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return tuple(
        Module(name, ast.parse(path.read_text(encoding="utf-8")))
        for name, path in zip(names, paths, strict=True)
        if not name.startswith(GENERATED)
    )


@cache
def paths_by_name() -> dict[str, str]:
    """Dotted name to path of every module of the product."""
    return {module.name: module.path for module in modules()}


def imported_names(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Dotted names that are imported anywhere in the tree, and whether under `if TYPE_CHECKING`.

    `from a.b import c` yields both `a.b` and `a.b.c`, since `c` may be a module.
    """
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in checked
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in checked
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in checked


def named_in_strings(tree: ast.AST) -> Iterator[str]:
    """Dotted names of our packages that stand in string constants, docstrings excepted."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            match = _DOTTED.match(node.value)
            if match:
                yield match.group()


def imported_paths(module: Module) -> set[str]:
    """Paths of our modules that this one imports, type-checking imports included."""
    known = paths_by_name()
    return {known[name] for name, _ in imported_names(module.tree) if name in known} - {module.path}


@cache
def module_arrows() -> dict[str, set[str]]:
    """Module to the modules it imports when it is imported; imports inside functions are left out."""
    known = paths_by_name()
    return {
        module.path: {
            known[name]
            for statement in module.tree.body
            if isinstance(statement, ast.Import | ast.ImportFrom)
            for name, _ in imported_names(statement)
            if name in known and not known[name].endswith("__init__.py") and known[name] != module.path
        }
        for module in modules()
    }


@cache
def folder_arrows() -> dict[str, dict[str, list[str]]]:
    """Folder to the folders it imports from, each with the importing files as `importer -> imported`."""
    folders = {module.path: module.folder for module in modules()}
    arrows: dict[str, dict[str, list[str]]] = {}
    for module in modules():
        for path in sorted(imported_paths(module)):
            if path.endswith("__init__.py") or folders[path] == module.folder:
                continue
            arrows.setdefault(module.folder, {}).setdefault(folders[path], []).append(f"{module.path} -> {path}")
    return arrows


def cycles() -> list[list[str]]:
    """Groups of folders that import each other in a circle (strongly connected components of two or more)."""
    arrows = folder_arrows()
    reach = {folder: _reachable(folder, arrows) for folder in arrows}
    groups = {
        tuple(sorted(other for other in reach[folder] if folder in reach.get(other, ())))
        for folder in arrows
        if folder in reach[folder]
    }
    return sorted(list(group) for group in groups)


def _reachable(start: str, arrows: dict[str, dict[str, list[str]]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(arrows.get(start, ()))
    while waiting:
        folder = waiting.pop()
        if folder not in seen:
            seen.add(folder)
            waiting += arrows.get(folder, ())
    return seen


if __name__ == "__main__":
    for group in cycles():
        print("CYCLE", *group)  # noqa: T201
        for here in group:
            for there, files in folder_arrows()[here].items():
                if there in group:
                    print(f"  {here} -> {there}", *(f"\n      {name}" for name in files))  # noqa: T201
