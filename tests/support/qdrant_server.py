"""Qdrant servers on loopback, from a binary that is not part of this repository: one, or several as a cluster.

with QdrantCluster(folder, nodes=3) as cluster:
    store = open_store(cluster.nodes[0].url, api_key=cluster.api_key)
"""

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pytest

from gmvaluator.auth.secret_files import QDRANT_API_KEY, own_environment
from tests.support.supervised import free_port

BINARY_VARIABLE = "GMVALUATOR_QDRANT_BINARY"
URL_VARIABLE = "QDRANT_URL"

START_S = 120.0
"""Seconds within which a node has to answer: one that was killed reads its write-ahead logs first."""

STOP_S = 60.0
_POLL_S = 0.1


def binary() -> Path | None:
    """Return the server's program as the environment names it; None if it names none."""
    path = os.environ.get(BINARY_VARIABLE, "")
    return Path(path).resolve() if path else None


@dataclass(frozen=True)
class QdrantServer:
    """Address and key of a running server. api_key: empty if it wants none."""

    url: str
    api_key: str = field(repr=False)


class QdrantNode:
    """One server process, started in `folder`, which holds its data and log.

    bootstrap: address by which it joins a cluster; empty for the cluster's first node, None for a single server.
    """

    def __init__(self, program: Path, folder: Path, api_key: str = "", bootstrap: str | None = None) -> None:
        self.folder, self.api_key = folder, api_key
        self.http_port, self.grpc_port, self.peer_port = free_port(), free_port(), free_port()
        self._program, self._bootstrap = program, bootstrap
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where the product finds it: its gRPC port."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        """Start the process, again if it ended; wait: until it is ready."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env={**own_environment(), **self._settings()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it answers on its ports and has taken part in the cluster's consensus."""
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{self._program} {'ended' if ended else 'does not answer'}: {self.log_tail()}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; kill -9 if it does not end."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Let it answer nothing more while its connections stay open, as a machine that hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log_tail(self, characters: int = 2000) -> str:
        return (self.folder / "log").read_text(errors="replace")[-characters:]

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _is_ready(self) -> bool:
        try:
            with _direct.open(f"{self.http_url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _command(self) -> list[str]:
        words = [str(self._program), "--disable-telemetry"]
        if self._bootstrap is not None:
            words += ["--uri", self.peer_url]
        if self._bootstrap:
            words += ["--bootstrap", self._bootstrap]
        return words

    def _settings(self) -> dict[str, str]:
        settings = {
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__SERVICE__ENABLE_STATIC_CONTENT": "false",
            "QDRANT__STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            "QDRANT_INIT_FILE_PATH": str(self.folder / "initialised"),
            "QDRANT__LOG_LEVEL": "INFO",
        }
        if self.api_key:
            settings["QDRANT__SERVICE__API_KEY"] = self.api_key
        if self._bootstrap is not None:
            settings["QDRANT__CLUSTER__ENABLED"] = "true"
            settings["QDRANT__CLUSTER__P2P__PORT"] = str(self.peer_port)
        return settings


class QdrantCluster:
    """Running nodes of one cluster; a single one is a server without cluster mode. Use as a context manager."""

    def __init__(self, folder: Path, nodes: int = 1, api_key: str = "") -> None:
        program = binary()
        assert program is not None, f"set {BINARY_VARIABLE} to the path of a Qdrant server"
        self.api_key = api_key
        self.nodes: list[QdrantNode] = []
        self._folder = folder
        try:
            for number in range(nodes):
                bootstrap = None if nodes == 1 else self.nodes[0].peer_url if self.nodes else ""
                self.nodes.append(QdrantNode(program, folder / f"node-{number}", api_key, bootstrap))
                self.nodes[-1].start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every node and delete what they stored."""
        for node in self.nodes:
            node.kill()
            shutil.rmtree(node.folder / "storage", ignore_errors=True)

    def __enter__(self) -> "QdrantCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def running_server(folder: Path) -> Iterator[QdrantServer]:
    """The server that the environment names, or one started in `folder`. Skips the test if there is neither."""
    url = os.environ.get(URL_VARIABLE, "")
    if url:
        yield QdrantServer(url, os.environ.get(QDRANT_API_KEY, ""))
    elif binary() is None:
        pytest.skip(f"no Qdrant server: set {URL_VARIABLE} to its address, or {BINARY_VARIABLE} to its program")
    else:
        with QdrantCluster(folder, api_key="a-key-of-the-tests") as cluster:
            yield QdrantServer(cluster.nodes[0].url, cluster.api_key)


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of loopback without the proxy that the environment configures."""
