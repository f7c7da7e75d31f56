"""Measure the shape of the code: how it is cut into modules and functions, and how much of it explains itself.

`python -m tests.checks.shape --json` prints one object. The figures are for comparison between commits; nothing
enforces them. `--root DIR` measures another checkout.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import statistics
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("gmvaluator", "indexer", "attributor", "dashboard", "evaluation", "deploy")
GENERATED = "gmvaluator/v1"
SMALL_LINES, LARGE_LINES = 40, 400


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """Lines of one module. functions: lines of each function, its signature and docstring included."""

    path: str
    lines: int
    import_lines: int
    comment_lines: int
    functions: tuple[int, ...]


def measure(path: Path, root: Path) -> ModuleShape:
    """Measure one source file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    imports = sum(_span(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    functions = tuple(_span(node) for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lines = len(source.splitlines())
    return ModuleShape(path.relative_to(root).as_posix(), lines, imports, _comment_lines(source), functions)


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _comment_lines(source: str) -> int:
    """Count the lines that hold a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip() for token in tokens)


def modules(root: Path) -> Iterator[ModuleShape]:
    """Yield the shape of every hand-written product module; package files are left out."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name != "__init__.py" and not path.relative_to(root).as_posix().startswith(GENERATED):
                yield measure(path, root)


def summarise(shapes: Sequence[ModuleShape]) -> dict[str, Any]:
    """Return the figures that compare one state of the code with another."""
    lines = [shape.lines for shape in shapes]
    functions = sorted(length for shape in shapes for length in shape.functions)
    return {
        "modules": len(shapes),
        "lines": sum(lines),
        "module_lines_median": statistics.median(lines),
        "module_lines_max": max(lines),
        "modules_under_40_lines": sum(count < SMALL_LINES for count in lines),
        "modules_over_400_lines": sum(count > LARGE_LINES for count in lines),
        "function_lines_median": statistics.median(functions),
        "function_lines_p90": functions[int(len(functions) * 0.9)],
        "function_lines_max": functions[-1],
        "import_lines_percent": round(100 * sum(shape.import_lines for shape in shapes) / sum(lines), 1),
        "comment_lines_per_1000": round(1000 * sum(shape.comment_lines for shape in shapes) / sum(lines), 1),
    }


def main() -> None:
    """Print the figures, as text or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to measure")
    arguments = parser.parse_args()
    figures = summarise(list(modules(arguments.root)))
    if arguments.json:
        print(json.dumps(figures, indent=2))  # noqa: T201
        return
    for name, value in figures.items():
        print(f"{name:28} {value}")  # noqa: T201


if __name__ == "__main__":
    main()
