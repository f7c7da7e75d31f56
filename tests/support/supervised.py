"""Programs that are started again when they end, as a container engine does with `restart: unless-stopped`."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from gmvaluator.auth.secret_files import own_environment

PAUSE_S = 0.3
STOP_S = 40.0


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


class Supervised:
    """`python -m WORDS`, kept running until `stop`. starts: how often it was started. log: what it wrote."""

    def __init__(self, folder: Path, name: str, *words: object, environment: Mapping[str, str] | None = None) -> None:
        self.starts = 0
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", *map(str, words)]
        self._environment = {**own_environment(), **(environment or {})}
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """kill -9, once it runs."""
        while self._process is None or self._process.poll() is not None:
            time.sleep(0.01)
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM, and no other start."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
        self._thread.join(STOP_S)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join()

    def _keep(self) -> None:
        with self.log.open("ab") as log:
            while not self._stopping.is_set():
                self._process = subprocess.Popen(
                    self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                self.starts += 1
                self._process.wait()
                self._stopping.wait(PAUSE_S)

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
