"""The lease files of an index folder, and who holds which lock.

    users.lock    shared by every program that uses the index; the engine takes it alone when it ends
    start.lock    alone by the program that looks for an engine or starts one
    engine.lock   alone by the engine, as long as it lives
    engine.json   where the engine listens and the key it wants; readable by its owner only

All are flocks: the kernel releases them however a process ends. Python opens files without inheritance, so a
child that is spawned never keeps one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from gmvaluator.index.engine.files import replace_file

USERS_LOCK = "users.lock"
START_LOCK = "start.lock"
ENGINE_LOCK = "engine.lock"
CONTACT = "engine.json"
LOG = "engine.log"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Contact:
    """How to reach a running engine on this machine."""

    port: int
    api_key: str = field(repr=False)
    pid: int

    def write(self, folder: Path) -> None:
        """Replace engine.json, for its owner's eyes only."""
        value = {"port": self.port, "api_key": self.api_key, "pid": self.pid}
        replace_file(folder / CONTACT, json.dumps(value).encode(), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> Contact | None:
        """What engine.json says, or None if there is none that can be read."""
        try:
            value = json.loads((folder / CONTACT).read_bytes())
            return cls(int(value["port"]), str(value["api_key"]), int(value["pid"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def remove_own(cls, folder: Path) -> None:
        """Remove engine.json if this process wrote it: the folder may have been made anew, and be another's."""
        found = cls.read(folder)
        if found is not None and found.pid == os.getpid():
            (folder / CONTACT).unlink(missing_ok=True)


class Lock:
    """One flock on a file that is made if absent. Use `take`, then `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, shared: bool = False, timeout_s: float = 0.0) -> bool:
        """Whether the lock was got within `timeout_s`; 0 tries once."""
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._descriptor, operation)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def drop(self) -> None:
        """Let go of the lock but keep the file open."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def release(self) -> None:
        """Let go of the lock and the file; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
