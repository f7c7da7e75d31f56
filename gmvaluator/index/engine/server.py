"""Server of the engine process: takes the lock, opens the collections, serves, and ends after the last user."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
from qdrant_client import grpc as messages

from gmvaluator import __version__
from gmvaluator.files import FileLock
from gmvaluator.index.engine.launcher import CONTACT, ENGINE_LOCK, LOG, USERS_LOCK, Contact
from gmvaluator.index.engine.registry import Registry
from gmvaluator.index.engine.services import CollectionsService, HealthService, PointsService
from gmvaluator.index.engine.sockets import new_socket, remove_socket
from gmvaluator.index.engine.wire_settings import FLUSH_INTERVAL_S

_log = logging.getLogger(__name__)
ALREADY_RUNNING = 3
"""Exit code if another engine runs on the folder."""

KEY_VARIABLE = "QDRANT__SERVICE__API_KEY"
"""Environment variable with the API key, as named by Qdrant's server."""

MIN_KEY_CHARACTERS = 16
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_THREADS = 8
_USERS_POLL_S = 0.25
"""Interval at which the engine checks whether it still has users."""

_GRACE_S = 2.0
"""Seconds for which a shutdown waits for calls in flight."""

_LOCK_WAIT_S = 1.0
MAX_LOG_BYTES = 1024 * 1024
"""Size of engine.log, in bytes, above which it is rotated."""


class _KeyCheck(grpc.ServerInterceptor):
    """Interceptor that rejects calls without the API key."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key.encode()
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        given = next((value for key, value in details.invocation_metadata if key == "api-key"), "")
        known = hmac.compare_digest(str(given).encode(), self._api_key)
        return continuation(details) if known else self._refusal


def _refuse(_request: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the api-key is not the one in engine.json")


class Engine:
    """An engine that serves one folder.

    It listens on a Unix socket that only its own user can reach. With a port it is a permanent server: it listens there
    too, accepts `api_key`, and runs until SIGTERM or SIGINT. Without one it generates a key, and also ends after its
    last user.
    """

    def __init__(self, folder: Path, port: int = 0, api_key: str = "") -> None:
        self._folder = folder
        self._port = port
        self._api_key = api_key or secrets.token_urlsafe(32)
        self._stop = threading.Event()

    def run(self) -> int:
        """Serve until the last user leaves or SIGTERM or SIGINT arrives; return the exit code."""
        with (
            closing(FileLock(self._folder / ENGINE_LOCK)) as alone,
            closing(FileLock(self._folder / USERS_LOCK)) as users,
        ):
            if not alone.acquire(timeout_s=_LOCK_WAIT_S):
                return ALREADY_RUNNING
            killed = Contact.read(self._folder)
            (self._folder / CONTACT).unlink(missing_ok=True)
            socket = new_socket(self._folder, None if killed is None else killed.socket)
            signal.signal(signal.SIGTERM, self._on_signal)
            signal.signal(signal.SIGINT, self._on_signal)
            registry = Registry(self._folder)
            server = self._serve(registry, socket)
            try:
                self._wait(registry, users)
            finally:
                Contact.remove_own(self._folder)
                server.stop(_GRACE_S).wait()
                remove_socket(self._folder, socket)
                registry.close()
        _log.info("ended")
        return 0

    def _serve(self, registry: Registry, socket: Path) -> grpc.Server:
        size = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", -1)]
        server = grpc.server(
            ThreadPoolExecutor(_THREADS),
            interceptors=[_KeyCheck(self._api_key)],
            options=[*size, ("grpc.so_reuseport", 0)],
        )
        messages.add_QdrantServicer_to_server(HealthService(__version__), server)  # type: ignore[no-untyped-call]
        messages.add_CollectionsServicer_to_server(CollectionsService(registry), server)  # type: ignore[no-untyped-call]
        messages.add_PointsServicer_to_server(PointsService(registry), server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"unix:{socket}")
        if self._port:
            server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        Contact(socket, self._api_key, os.getpid()).write(self._folder)
        _log.info("serving %s on %s, process %d", ", ".join(registry.names()) or "nothing", socket, os.getpid())
        return server

    def _wait(self, registry: Registry, users: FileLock) -> None:
        """Flush periodically; return once stopped, or once the index has no users.

        In the latter case the engine holds the users' lock, so that no program can begin to use it.
        """
        flushed = time.monotonic()
        while not self._stop.wait(_USERS_POLL_S):
            if not self._port and users.acquire():
                _log.info("the last user has gone")
                return
            if time.monotonic() - flushed >= FLUSH_INTERVAL_S:
                registry.flush()
                bound_log(self._folder / LOG)
                flushed = time.monotonic()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()


def bound_log(path: Path) -> None:
    """Rotate the log once it exceeds `MAX_LOG_BYTES`."""
    # Standard error is open for appending to this file, so the file is copied and truncated, not renamed.
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.with_suffix(".log.1").write_bytes(path.read_bytes())
        os.truncate(path, 0)


def main(arguments: list[str]) -> int:
    """Run the engine for the arguments DIR [PORT]; return the exit code, which is 2 for invalid arguments.

    With a port, the API key is read from QDRANT__SERVICE__API_KEY.
    """
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)sZ %(levelname)s %(name)s %(message)s")
    if len(arguments) not in (1, 2) or (len(arguments) == 2 and not _is_port(arguments[1])):
        sys.stderr.write("usage: python -m gmvaluator.index.engine DIR [PORT]\n")
        return 2
    if len(arguments) == 1:
        return Engine(Path(arguments[0])).run()
    api_key = os.environ.get(KEY_VARIABLE, "")
    if len(api_key) < MIN_KEY_CHARACTERS:
        sys.stderr.write(f"put a key of {MIN_KEY_CHARACTERS} characters or more into {KEY_VARIABLE}\n")
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    return Engine(folder, int(arguments[1]), api_key).run()


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= 65_535
