"""The error tree: drawn as it is, and every leaf has a status and an exit code."""

import re

import grpc
import pytest

from gmvaluator import errors
from gmvaluator.errors import EXIT_CODE, GRPC_STATUS, GmvaluatorError, exit_code_of, status_of


def tree(kind: type[GmvaluatorError] = GmvaluatorError) -> list[type[GmvaluatorError]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return children + [leaf for child in children for leaf in tree(child)]


@pytest.mark.parametrize("kind", tree())
def test_every_error_has_a_status_and_an_exit_code(kind: type[GmvaluatorError]) -> None:
    assert grpc.StatusCode[status_of(kind("x"))] is not grpc.StatusCode.OK
    assert exit_code_of(kind("x")) in (1, 2)


def test_both_tables_speak_of_the_same_branches() -> None:
    assert GRPC_STATUS.keys() == EXIT_CODE.keys() == set(GmvaluatorError.__subclasses__())


def test_the_drawing_shows_every_error() -> None:
    drawing = (errors.__doc__ or "").split("Messages say")[0]
    assert set(re.findall(r"[├└]── (\w+)", drawing)) == {kind.__name__ for kind in tree()}
