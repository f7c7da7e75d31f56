"""Lease on the engine of an index folder: finds a running engine or starts one, and keeps it running while in use.

An index folder has these files:

    users.lock    held shared by every program that uses the index; the engine takes it exclusively before it ends
    start.lock    held exclusively by a program that looks for an engine or starts one
    engine.lock   held exclusively by the engine while it runs
    engine.json   socket and API key of the engine; readable by its owner only
    .socket/      the engine's socket; accessible to its owner only

The engine listens on a Unix socket and not on a port, which any user of the machine could take over once the engine has
died: that user would be sent the API key, and could direct all credits.

The locks are flocks, which the kernel releases however a process ends. Python opens files as non-inheritable, so a
child process never keeps one.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc

import gmvaluator
from gmvaluator.environment import interpreter_environment
from gmvaluator.errors import IndexUnavailable
from gmvaluator.files import FileLock, atomic_write, private_file, private_folder
from gmvaluator.index.engine.sockets import require_own_socket

USERS_LOCK = "users.lock"
START_LOCK = "start.lock"
ENGINE_LOCK = "engine.lock"
CONTACT = "engine.json"
LOG = "engine.log"


@dataclass(frozen=True, slots=True)
class Contact:
    """Socket, API key and process id of a running engine on this machine."""

    socket: Path
    api_key: str = field(repr=False)
    pid: int

    def write(self, folder: Path) -> None:
        """Write engine.json atomically, readable by its owner only."""
        value = {"socket": str(self.socket), "api_key": self.api_key, "pid": self.pid}
        atomic_write(folder / CONTACT, json.dumps(value).encode(), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> Contact | None:
        """Read engine.json; return None if it is absent or malformed."""
        try:
            value = json.loads((folder / CONTACT).read_bytes())
            return cls(Path(value["socket"]), str(value["api_key"]), int(value["pid"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def remove_own(cls, folder: Path) -> None:
        """Remove engine.json if this process wrote it."""
        # The folder may have been deleted and created again, and belong to another engine by now.
        contact = cls.read(folder)
        if contact is not None and contact.pid == os.getpid():
            (folder / CONTACT).unlink(missing_ok=True)


START_TIMEOUT_S = 60.0
"""Seconds within which an engine must start: imports take 2 s on an idle machine, a long write-ahead log takes more."""

_POLL_S = 0.02
_CALL_TIMEOUT_S = 5.0
_LOG_TAIL_CHARACTERS = 400


class EngineLease:
    """A lease on the engine of a folder, which runs at least until `close`. Thread-safe."""

    def __init__(self, folder: Path, timeout_s: float = START_TIMEOUT_S) -> None:
        """Connect to the engine that runs on `folder`, or start one. Raises IndexUnavailable."""
        self._folder = folder.resolve()
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        try:
            private_folder(self._folder)
            self._users = FileLock(self._folder / USERS_LOCK)
        except OSError as error:
            raise IndexUnavailable(f"the index folder {folder} cannot be used: {error}") from error
        try:
            if not self._users.acquire(shared=True, timeout_s=timeout_s):
                raise IndexUnavailable(
                    f"the engine of {folder} has been ending for {timeout_s:.0f} s: {self._advice()}"
                )
            self.contact = self._find_or_start()
        except BaseException:
            self._users.close()
            raise

    def renew(self, broken: Contact) -> Contact:
        """Return the contact to use after `broken` could not be reached; restart the engine if it died.

        Raises IndexUnavailable.
        """
        with self._lock:
            if self.contact == broken:
                self.contact = self._find_or_start()
            return self.contact

    def close(self) -> None:
        """Release the lease. The engine ends after its last user. Idempotent."""
        self._users.close()

    def _find_or_start(self) -> Contact:
        deadline = time.monotonic() + self._timeout_s
        with closing(FileLock(self._folder / START_LOCK)) as starting:
            if not starting.acquire(timeout_s=self._timeout_s):
                raise IndexUnavailable(f"another program has been starting the engine for long: {self._advice()}")
            while time.monotonic() < deadline:
                contact = self._wait_for_contact(deadline) if self._alive() else self._start(deadline)
                if contact is not None:
                    return contact
        raise IndexUnavailable(
            f"the engine of {self._folder} did not start in {self._timeout_s:.0f} s: {self._advice()}"
        )

    def _alive(self) -> bool:
        """Return whether an engine runs on the folder, by its lock."""
        with closing(FileLock(self._folder / ENGINE_LOCK)) as engine:
            return not engine.acquire()

    def _wait_for_contact(self, deadline: float) -> Contact | None:
        """Return the contact of the running engine once it answers, or None if it ended meanwhile."""
        while time.monotonic() < deadline and self._alive():
            contact = Contact.read(self._folder)
            if contact is not None:
                require_own_socket(contact.socket)
                if _answers(contact):
                    return contact
            time.sleep(_POLL_S)
        return None

    def _start(self, deadline: float) -> Contact | None:
        """Start an engine and return its contact, or None if another one won the race.

        Raises IndexUnavailable if the engine ends during its start.
        """
        killed = Contact.read(self._folder)
        process = _spawn(self._folder)
        while time.monotonic() < deadline:
            contact = Contact.read(self._folder)
            if contact is not None and contact != killed:
                require_own_socket(contact.socket)
                return contact
            status = process.poll()
            if status is not None:
                if self._alive():
                    return None
                raise IndexUnavailable(f"the engine ended at once with status {status}: {self._advice()}")
            time.sleep(_POLL_S)
        return None

    def _advice(self) -> str:
        log = self._folder / LOG
        tail = log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip() if log.exists() else ""
        return f"see {log}" + (f", which ends: {tail}" if tail else "")


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    """Start the engine process."""
    # It gets its own session, so that Ctrl-C in the user's terminal does not reach it.
    private_file(folder / LOG)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "gmvaluator.index.engine", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=_environment(),
            start_new_session=True,
            close_fds=True,
        )
    # The engine may outlive this program; if it ends first, something has to reap it.
    threading.Thread(target=process.wait, name="engine-reaper", daemon=True).start()
    return process


def _answers(contact: Contact) -> bool:
    """Return whether the engine answers a health check."""
    # A socket proves nothing: its file outlives a killed process.
    with grpc.insecure_channel(f"unix:{contact.socket}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        health_check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/qdrant.Qdrant/HealthCheck")
        try:
            health_check(b"", timeout=_CALL_TIMEOUT_S, metadata=(("api-key", contact.api_key),))
        except grpc.RpcError:
            return False
    return True


def _environment() -> dict[str, str]:
    """Return an environment in which a child process imports this same package, even if it is not installed."""
    root = str(Path(gmvaluator.__file__).resolve().parents[1])
    if root in site.getsitepackages():
        return interpreter_environment()
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**interpreter_environment(), "PYTHONPATH": os.pathsep.join(paths)}
