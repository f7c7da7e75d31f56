"""Starting and stopping the product's programs."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gmvaluator.auth.secret_files import own_environment


def run(*words: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`gmvaluator WORDS`, to its end. environment: variables in addition to those of every program."""
    command = [sys.executable, "-m", "gmvaluator", *map(str, words)]
    variables = {**own_environment(), **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800, env=variables)


def gmvaluator(*words: object, environment: Mapping[str, str] | None = None) -> Any:
    """`gmvaluator WORDS --json`, which has to succeed; its data."""
    done = run(*words, "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Attributor:
    """`gmvaluator serve` on a free port; `address` once it says that it serves."""

    def __init__(self, data: Path, *words: str, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "gmvaluator", "serve", "--data", str(data), "--address", "127.0.0.1:0"]
        self.data = data
        self.process = subprocess.Popen(
            [*command, "--json", *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**own_environment(), **(environment or {})},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the attributor ended with {self.process.wait()}"
        where: dict[str, str] = json.loads(line)
        self.address = where["address"]
        self.metrics = where.get("metrics", "")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> "Attributor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()
