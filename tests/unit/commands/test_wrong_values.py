"""Every command with wrong, missing and absurd values: one line on stderr and exit code 2, never a traceback.

The commands run in this process. What takes seconds (servers, models, downloads) is replaced by a refusal, so that a
value that a command accepts ends there.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import rich_click as click
from click.types import FloatParamType, IntParamType, StringParamType

from gmvaluator.commands import failures
from gmvaluator.commands.main import gmvaluator, run
from gmvaluator.errors import InvalidInput

HEAVY = ("evaluation.benchmarks", "evaluation.counterfactual.section", "evaluation.criteria.run")
"""Modules that import torch, and that check their arguments no further."""

Words = tuple[str, ...]

NUMBERS = ("x", "-1", "nan", "inf", "1e99", "9" * 40)
"""No option takes any of these as a number."""

TEXTS = ("", "\udcff", "\0", "x" * 100_000, "two\nlines", "/nowhere/x")

UNREACHED = {("attribute",), ("health",)}
"""Commands whose call to a server that is not there is an error of its own, with exit code 1."""

WITHOUT_DATA = {("policies", "list"), ("policies", "show")}
"""Commands that a folder which does not exist leaves with the shipped policies."""

SLOW = (
    "attributor.server.serve",
    "dashboard.server.serve",
    "gmvaluator.commands.demo.run_command",
    "gmvaluator.commands.models.ModelsFolder",
    "gmvaluator.models.process_setup.prepare_process",
    "gmvaluator.models.profiles.load_models",
    "indexer.cli.add.add_source",
)


def walk(group: click.Group, words: Words = ()) -> Iterator[tuple[Words, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = {words: command for words, command in walk(gmvaluator) if words[0] != "bench"}
"""All commands of the installed package; the benchmarks start programs of their own."""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise InvalidInput("the command would start now")

    for name in SLOW:
        monkeypatch.setattr(name, refuse)
    for name in HEAVY:
        module = ModuleType(name)
        vars(module)["__getattr__"] = lambda _: refuse
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.chdir(tmp_path)


def outcome(capsys: pytest.CaptureFixture[str], words: Words) -> tuple[int, list[str]]:
    """Run a command; return its exit code and the lines of its stderr."""
    try:
        code = run(words)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return code, capsys.readouterr().err.strip().splitlines()


def wrong_values(parameter: click.Parameter, folder: Path) -> tuple[str, ...]:
    loop = folder / "loop"
    if not loop.is_symlink():
        loop.symlink_to(loop)
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return ("nonsense", "")
    if isinstance(kind, click.Path):
        return ("", "\0", "x" * 5_000, str(loop / "file"))
    if isinstance(kind, IntParamType | FloatParamType):
        return NUMBERS
    return TEXTS


def usable(parameter: click.Parameter) -> str:
    """Return a value that passes the parameter's type, for parameters that are not under test."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return str(kind.choices[0])
    if isinstance(kind, IntParamType | FloatParamType):
        return "5"
    return {"period": "2026-10", "currency": "EUR"}.get(parameter.name or "", "absent")


def invocation(words: Words, command: click.Command, tested: click.Parameter, value: str) -> Words:
    """Return a command line in which one parameter has a wrong value, and the others are as few as possible."""
    options, arguments = [], []
    for parameter in command.params:
        text = value if parameter is tested else usable(parameter) if parameter.required else None
        if text is None:
            continue
        if isinstance(parameter, click.Argument):
            arguments.append(text)
        else:
            options.append(f"{max(parameter.opts, key=len)}={text}")
    return (*words, *options, *(("--", *arguments) if arguments else ()))


def test_every_number_has_a_lower_and_an_upper_bound() -> None:
    numbers = [
        (words, parameter.name, parameter.type)
        for words, command in walk(gmvaluator)
        for parameter in command.params
        if isinstance(parameter.type, IntParamType | FloatParamType)
    ]
    assert numbers
    for words, name, kind in numbers:
        assert isinstance(kind, click.IntRange | click.FloatRange), (words, name)
        assert None not in (kind.min, kind.max), (words, name)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_wrong_value_is_one_line_and_exit_code_2(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[words]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.is_flag:
            continue
        of_a_type = not isinstance(parameter.type, StringParamType)
        for value in wrong_values(parameter, tmp_path):
            line = invocation(words, command, parameter, value)
            code, errors = outcome(capsys, line)
            case = f"{line!r:.300}: {code}, {errors!r:.600}"
            # A text may be right, such as a reason of any length; a number, a choice or a path here never is.
            if code == 0 and (not of_a_type or words in WITHOUT_DATA):
                continue
            assert code == 2 or (code == 1 and words in UNREACHED), case
            assert len(errors) == 1, case
            assert errors[0].startswith("gmvaluator: "), case
            assert "unexpected" not in errors[0], case
            assert len(errors[0]) <= failures.MAX_CHARACTERS + 20, case


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_unknown_option_and_a_missing_argument_name_the_help(
    words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [(*words, "--no-such-option")]
    if any(parameter.required for parameter in COMMANDS[words].params):
        lines.append(words)
    for line in lines:
        code, errors = outcome(capsys, line)
        assert (code, len(errors)) == (2, 1), errors
        assert errors[0].endswith(f"(see `gmvaluator {' '.join(words)} --help`)")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "pip install 'gmvaluator[evaluation]'", 2),
        (ModuleNotFoundError("x", name="sklearn.mixture"), "pip install 'gmvaluator[evaluation]'", 2),
        (ModuleNotFoundError("x", name="ray.data"), "pip install 'gmvaluator[ray]'", 2),
        (ModuleNotFoundError("x", name="torch"), "this needs torch, which is not installed", 2),
        (ImportError("libGL.so.1: cannot open shared object file"), "libGL.so.1", 2),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied", 2),
        (OSError(28, "No space left on device"), "No space left on device", 2),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "not UTF-8", 2),
        (KeyboardInterrupt(), "stopped", 130),
        (ZeroDivisionError("division\nby zero"), "unexpected ZeroDivisionError", 1),
    ],
)
def test_an_error_that_no_command_expects_is_one_line_too(error: BaseException, line: str, code: int) -> None:
    described = failures.failure_line(error)
    assert line in described.text
    assert "\n" not in described.text
    assert described.exit_code == code


def test_an_unexpected_error_names_its_place_and_shows_the_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise KeyError("lost")

    monkeypatch.setattr("gmvaluator.commands.plan.make_plan", fail)
    words = ("plan", "--images", "5", "--qps", "1")
    code, (line,) = outcome(capsys, words)
    assert code == 1
    assert "KeyError in test_wrong_values.py, line" in line
    monkeypatch.setenv(failures.TRACEBACK, "1")
    assert any(text.startswith("Traceback") for text in outcome(capsys, words)[1])
