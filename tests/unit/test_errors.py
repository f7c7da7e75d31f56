"""The error tree: drawn as it is, and every class has a status and an exit code."""

import ast
import importlib
import re
from pathlib import Path

import grpc
import pytest

from gmvaluator import errors
from gmvaluator.errors import EXIT_CODE, GRPC_STATUS, GmvaluatorError, exit_code_of, status_of

ROOT = Path(__file__).parents[2]
PROGRAMS = ("gmvaluator", "indexer", "attributor", "dashboard", "evaluation")


def defined_errors() -> dict[str, str]:
    """Return every error class of the product and its module, read from the source without importing it.

    `__subclasses__` knows only classes whose modules were imported, so it misses those that programs define.
    """
    bases: dict[str, set[str]] = {}
    homes: dict[str, str] = {}
    for path in [path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                homes[node.name] = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    names = {GmvaluatorError.__name__}
    while more := {name for name, parents in bases.items() if parents & names} - names:
        names |= more
    return {name: homes[name] for name in names - {GmvaluatorError.__name__}}


def subclasses(kind: type[GmvaluatorError] = GmvaluatorError) -> list[type[GmvaluatorError]]:
    children = [child for child in kind.__subclasses__() if child.__module__.split(".")[0] in PROGRAMS]
    return children + [leaf for child in children for leaf in subclasses(child)]


DEFINED = defined_errors()
KINDS = [getattr(importlib.import_module(module), name) for name, module in sorted(DEFINED.items())]


def test_every_subclass_is_found() -> None:
    assert {"DecoderLate", "NotClosable", "ReaderStalled"} < DEFINED.keys()
    assert {kind.__name__ for kind in subclasses()} == DEFINED.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_status_and_an_exit_code(kind: type[GmvaluatorError]) -> None:
    error = kind.__new__(kind)
    assert grpc.StatusCode[status_of(error)] is not grpc.StatusCode.OK
    assert exit_code_of(error) in (1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_when_it_is_raised(kind: type[GmvaluatorError]) -> None:
    assert kind.__doc__


def test_both_tables_speak_of_the_same_branches() -> None:
    assert GRPC_STATUS.keys() == EXIT_CODE.keys() == set(GmvaluatorError.__subclasses__())


def test_the_drawing_shows_every_error_of_the_module() -> None:
    drawing = (errors.__doc__ or "").split("Messages say")[0]
    shared = {name for name, module in DEFINED.items() if module == errors.__name__}
    assert set(re.findall(r"[├└]── (\w+)", drawing)) == shared
