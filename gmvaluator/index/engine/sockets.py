"""The engine's Unix socket, in a folder that only the engine's user can enter."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from gmvaluator.errors import IndexUnavailable

SOCKET_FOLDER = ".socket"
_TEMPORARY_PREFIX = "gmvaluator-engine-"
_MAX_PATH_BYTES = 100
"""Limit of a socket's path; Linux allows 107 bytes."""


def new_socket(folder: Path, previous: Path | None = None) -> Path:
    """Return an unused path for the socket of the engine of `folder`, which holds the engine's lock.

    It is in the folder itself, or in a temporary one where the path would be too long or the file system has no
    sockets. previous: the socket of an engine that was killed, which is removed.
    """
    own = folder / SOCKET_FOLDER
    shutil.rmtree(own, ignore_errors=True)
    if previous is not None and previous.parent.name.startswith(_TEMPORARY_PREFIX):
        shutil.rmtree(previous.parent, ignore_errors=True)
    # A new name for each engine, so that no client of the last one sends it the last one's key.
    path = own / secrets.token_hex(4)
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        own.mkdir(mode=0o700)
        if _can_bind(path):
            return path
    return Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX)) / path.name


def remove_socket(folder: Path, path: Path) -> None:
    """Remove a socket that `new_socket` returned for `folder`."""
    path.unlink(missing_ok=True)
    if path.parent != folder / SOCKET_FOLDER:
        path.parent.rmdir()


def require_own_socket(path: Path) -> None:
    """Raise IndexUnavailable if others than this process's user (and root) could have put the socket there."""
    try:
        status = path.parent.lstat()
    except FileNotFoundError:
        return  # the engine has ended, and took it along
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or (status.st_uid != os.geteuid() and os.geteuid() != 0):
        raise IndexUnavailable(
            f"{path.parent}, which contains the engine's socket, is open to other users or belongs to one: end the "
            "programs that use the index, remove that folder, and start again"
        )


def _can_bind(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(path))
        except OSError:
            return False
    path.unlink()
    return True
