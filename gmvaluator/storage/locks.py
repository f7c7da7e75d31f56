"""One writer per database file: a lock that the kernel releases when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

from gmvaluator.errors import AlreadyHeld

_MAX_COMMAND_CHARACTERS = 200


class WriterLock:
    """Holds `FILE.lock` from construction until `release` or the end of the process.

    Raises AlreadyHeld, naming the holder's process id and command, if another one holds it. The lock file stays
    behind: removing it would let two processes lock two files of one name.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(_lock_path(file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AlreadyHeld(
                f"{file} is being written by {holder(file)}: let it finish or stop it, then try again"
            ) from None
        except BaseException:
            os.close(self._descriptor)
            raise
        self._sign()

    def _sign(self) -> None:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:_MAX_COMMAND_CHARACTERS]
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "command": command}).encode(), 0)

    def release(self) -> None:
        """Let another writer in. Calling it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def holder(file: Path) -> str:
    """Who signed the lock of `file` last, for people: "process 4711 (gmvaluator serve)"."""
    try:
        signature = json.loads(_lock_path(file).read_text(encoding="utf-8"))
        return f"process {signature['pid']} ({signature['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _lock_path(file: Path) -> Path:
    return file.with_name(file.name + ".lock")
