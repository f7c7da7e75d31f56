"""Sessions that were signed out before their cookies expire: a file that all dashboards of a data folder share."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from gmvaluator.files import atomic_write
from gmvaluator.ids import sha256_hex

FILE = "dashboard.signed-out"

_log = structlog.get_logger("dashboard")


class SignedOut:
    """Secrets of sessions that have ended, each until its cookie has expired. Thread-safe.

    The file has a line `SHA256 EXPIRY` for each, with the time in seconds UTC. Where it cannot be written, the sessions
    end in this process alone.
    """

    def __init__(self, path: Path, session_s: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._session_s = session_s
        self._clock = clock
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._expiries: dict[str, float] = {}

    def add(self, secret: str) -> None:
        """End the session of a secret."""
        with self._lock:
            expiry = self._clock() + self._session_s
            self._expiries[sha256_hex(secret.encode())] = expiry
            try:
                self._append(f"{sha256_hex(secret.encode())} {expiry:.0f}\n")
            except OSError as error:
                _log.warning("a session ended in this process alone", why=str(error))

    def __contains__(self, secret: str) -> bool:
        with self._lock:
            self._refresh()
            return sha256_hex(secret.encode()) in self._expiries

    def _append(self, line: str) -> None:
        # The lock is another file, because this one is replaced: a process that is killed while it writes must not
        # leave a part of it, by which sessions that ended would live again.
        with os.fdopen(os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Written without what has expired, so that the file stays as small as the sessions of one period.
            kept = [f"{digest} {expiry:.0f}\n" for digest, expiry in self._stored()]
            atomic_write(self._path, "".join([*kept, line]), mode=0o600)

    def _refresh(self) -> None:
        """Read the file if it has changed."""
        try:
            stat = self._path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state == self._state:
                return
            self._expiries |= dict(self._stored())
        except OSError:
            return
        self._state = state
        now = self._clock()
        self._expiries = {digest: expiry for digest, expiry in self._expiries.items() if expiry > now}

    def _stored(self) -> list[tuple[str, float]]:
        """Return the sessions of the file that have not expired; a line that cannot be read is none."""
        try:
            text = self._path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return []
        now, rows = self._clock(), []
        for line in text.splitlines():
            digest, _, expiry = line.strip().partition(" ")
            if expiry.isdigit() and float(expiry) > now:
                rows.append((digest, float(expiry)))
        return rows
