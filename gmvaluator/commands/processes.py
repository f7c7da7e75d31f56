"""Processes of gmvaluator's own commands: run them to their end, or start and stop a server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.errors import Failure

# An attributor drains for 25 s by default before it exits.
STOP_S = 40.0
"""Seconds between SIGTERM and SIGKILL."""


def run_command(*words: str, log: IO[str] | None = None) -> dict[str, Any]:
    """Run `gmvaluator WORDS --json` to its end and return what it printed; its stderr goes to `log`, default: ours.

    Raises Failure if it fails.
    """
    command = _command(*words, "--json")
    process = subprocess.run(  # noqa: S603 - our own program
        command, stdout=subprocess.PIPE, stderr=log, text=True, check=False, env=own_environment()
    )
    if process.returncode != 0:
        what = f"`gmvaluator {' '.join(words)}` ended with exit code {process.returncode}"
        raise Failure(f"{what}; its message is {_place(log)}")
    result: dict[str, Any] = json.loads(process.stdout)
    return result


@contextmanager
def observed_attributor(*words: str, log: IO[str] | None = None) -> Iterator[tuple[str, str]]:
    """Run `gmvaluator serve WORDS` on free ports of loopback; yield its address and the address of its metrics.

    It is warmed up when its address is yielded. On exit it gets SIGTERM, and SIGKILL if it does not end within STOP_S.
    log: file for its stderr; default: our stderr. Raises Failure if it does not start, or does not end with exit
    code 0.
    """
    command = _command("serve", "--address", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--json", *words)
    environment = own_environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:  # noqa: S603 - our own program
        try:
            addresses = _read_announcement(process, "attributor", log)
            yield addresses["address"], addresses["metrics"]
        finally:
            code = _stop(process)
        if code != 0:
            raise Failure(f"the attributor ended with exit code {code}; its message is {_place(log)}")


@contextmanager
def dashboard(*words: str) -> Iterator[str]:
    """Run `gmvaluator dashboard WORDS` on a free port of loopback, and yield its URL; stop it on exit.

    Raises Failure if it does not start.
    """
    command = _command("dashboard", "--address", "127.0.0.1:0", "--json", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_environment()) as process:  # noqa: S603 - our own program
        try:
            yield _read_announcement(process, "dashboard")["url"]
        finally:
            _stop(process)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gmvaluator", *words]


def _place(log: IO[str] | None) -> str:
    """Return where the message of a program is whose stderr is `log`."""
    return "above" if log is None else f"in {log.name}"


def _read_announcement(process: subprocess.Popen[str], program: str, log: IO[str] | None = None) -> dict[str, str]:
    """Return the JSON line that a program prints once it serves; raise Failure if it ends before."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Failure(f"the {program} ended with exit code {process.wait()}; its message is {_place(log)}")
    announcement: dict[str, str] = json.loads(line)
    return announcement


def _stop(process: subprocess.Popen[str]) -> int:
    """Stop a process by SIGTERM, and by SIGKILL after STOP_S; return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
