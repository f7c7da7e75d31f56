"""The writer lock: one writing process per database file; the kernel releases the lock when the process ends."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gmvaluator.errors import AlreadyHeld
from gmvaluator.files import FileLock

_MAX_COMMAND_CHARACTERS = 200
_COMMAND_WORDS = 2
"""Words of a command, such as `rights forget`."""

_COMMAND_WORD = re.compile(r"[a-z][a-z-]*")


class WriterLock:
    """An exclusive lock on `FILE.lock`, held from construction until `release` or the end of the process.

    Raises AlreadyHeld, with the holder's process id and command, if another process holds it. The lock file contains
    both, and is never removed.
    """

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(_lock_path(file))
        try:
            if not self._lock.acquire():
                raise AlreadyHeld(
                    f"{file} is being written by {holder(file)}: let it finish or stop it, then try again"
                )
            self._lock.write(json.dumps({"pid": os.getpid(), "command": _command(sys.argv)}).encode())
        except BaseException:
            self._lock.close()
            raise

    def release(self) -> None:
        """Unlock. Calling it again does nothing."""
        self._lock.close()


def _command(words: Sequence[str]) -> str:
    """Return the program and its command, without arguments: they may name an owner who is erased later."""
    names = itertools.takewhile(_COMMAND_WORD.fullmatch, words[1 : 1 + _COMMAND_WORDS])
    return " ".join([Path(words[0]).name, *names])[:_MAX_COMMAND_CHARACTERS]


def holder(file: Path) -> str:
    """Return the last holder of the lock of `file`, for messages: "process 4711 (gmvaluator serve)"."""
    try:
        entry = json.loads(_lock_path(file).read_text(encoding="utf-8"))
        return f"process {entry['pid']} ({entry['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _lock_path(file: Path) -> Path:
    return file.with_name(file.name + ".lock")
