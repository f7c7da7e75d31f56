"""Running gmvaluator's own commands as processes, and stopping them whatever happens."""

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

STOP_S = 40.0


def run_command(*words: str) -> dict[str, Any]:
    """Run `gmvaluator WORDS --json` to its end; its progress goes to our stderr. Raises Failure if it fails."""
    command = [sys.executable, "-m", "gmvaluator", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=own_environment())  # noqa: S603 - our own program
    if done.returncode != 0:
        raise Failure(f"`gmvaluator {' '.join(words)}` ended with exit code {done.returncode}; its message is above")
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@contextmanager
def attributor(*words: str) -> Iterator[str]:
    """An attributor of our own, `gmvaluator serve WORDS --address 127.0.0.1:0 --json`; yields its address.

    It says where it serves once it is warm. At the end it gets SIGTERM, and SIGKILL if it does not end in 40 s.
    Raises Failure if it does not start, or does not end well.
    """
    with _serving(*words) as where:
        yield where["address"]


@contextmanager
def observed_attributor(*words: str, log: IO[str] | None = None) -> Iterator[tuple[str, str]]:
    """As `attributor`, with metrics on a free port; yields its address and that of the metrics.

    log: where its stderr goes; default: to ours.
    """
    with _serving("--metrics", "127.0.0.1:0", *words, log=log) as where:
        yield where["address"], where["metrics"]


@contextmanager
def _serving(*words: str, log: IO[str] | None = None) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "gmvaluator", "serve", "--address", "127.0.0.1:0", "--json", *words]
    environment = own_environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:  # noqa: S603
        try:
            yield _announced(process)
        finally:
            code = _stop(process)
        if code != 0:
            raise Failure(f"the attributor ended with exit code {code}; its message is above")


@contextmanager
def dashboard(*words: str) -> Iterator[str]:
    """A dashboard of our own on a free port; yields its URL. At the end it gets SIGTERM."""
    command = [sys.executable, "-m", "gmvaluator", "dashboard", "--address", "127.0.0.1:0", "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_environment()) as process:  # noqa: S603 - our own program
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise Failure(f"the dashboard ended with exit code {process.wait()}; its message is above")
            yield str(json.loads(line)["url"])
        finally:
            _stop(process)


def _announced(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Failure(f"the attributor ended with exit code {process.wait()}; its message is above")
    where: dict[str, str] = json.loads(line)
    return where


def _stop(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
