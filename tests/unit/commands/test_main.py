"""Tests of how the console script loads its commands."""

import sys

import pytest
from click.testing import CliRunner

from gmvaluator.commands.main import gmvaluator
from gmvaluator.errors import MissingData, exit_code_of


def test_a_command_that_the_wheel_leaves_out_asks_for_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "evaluation.bench.cli", raising=False)
    monkeypatch.setitem(sys.modules, "evaluation.bench", None)
    result = CliRunner().invoke(gmvaluator, ["bench", "serve"])
    assert isinstance(result.exception, MissingData)
    assert "checkout of the repository" in str(result.exception)
    assert exit_code_of(result.exception) == 2


def test_a_missing_dependency_is_not_mistaken_for_a_missing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gmvaluator.commands.plan", raising=False)
    monkeypatch.setitem(sys.modules, "gmvaluator.planning.plan", None)
    result = CliRunner().invoke(gmvaluator, ["plan"])
    assert isinstance(result.exception, ModuleNotFoundError)
