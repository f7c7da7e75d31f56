"""Atomic file writes, private files and folders, and file locks.

The one place that knows how a file is replaced so that a crash, a full disk or a second process never leaves half of
it, and how processes exclude each other by a lock that the kernel releases.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

_LOCK_POLL_S = 0.02


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing, and move it to `path` when the block ends without an exception.

    A reader of `path` sees the old content or all of the new, never a part; if the block raises, `path` is unchanged
    and the temporary file is removed. mode: permissions, which the umask restricts, set when the file is created.
    durable: the content and the name survive a loss of power once this returns; pass False only for what can be made
    again. The folder has to exist. A process that is killed leaves its `.NAME.*.tmp`, which nothing reads.
    """
    temporary = _temporary(path)
    try:
        with _created(temporary, mode) as file:
            yield file
            file.flush()
            if durable:
                # Before the rename: some file systems write the new name first, and a crash leaves an empty file.
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def atomic_write(path: Path, data: bytes | str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write `data`, text as UTF-8, to `path` whole or not at all, as `atomic_file` does."""
    with atomic_file(path, mode=mode, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def create_once(path: Path, data: bytes, mode: int = 0o600) -> bytes:
    """Create `path` with `data` unless it exists, and return the bytes that it holds.

    After a crash the file is complete or absent. Of several processes that create it at the same time the first wins,
    and all return what the first wrote. The file is durable when this returns, so that nothing is signed or encrypted
    with a key that a loss of power takes away.
    """
    if not path.exists():
        temporary = _temporary(path)
        try:
            with _created(temporary, mode) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # A link fails if the name exists; a rename would replace the key that the first creator wrote.
            with suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    sync(path.parent)
    return path.read_bytes()


def private_folder(folder: Path) -> None:
    """Create a folder, and those above it that are missing, for this process's user alone.

    A folder that exists is left as it is. Raises OSError.
    """
    for missing in reversed([path for path in folder.parents if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def private_file(path: Path) -> None:
    """Create an empty file for this process's user alone, unless it exists. Raises OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    # In the same folder, because a rename across file systems is a copy; random, because threads may write one path.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _created(path: Path, mode: int) -> IO[bytes]:
    # The mode is set at creation: a chmod afterwards leaves a moment in which others can open a secret.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


class FileLock:
    """A lock (flock) on a file that is created if absent; the kernel releases it when the process ends.

    The constructor opens the file, `acquire` locks it, `close` unlocks it. As a context manager it waits for the
    exclusive lock. The file stays: removing it would let two processes lock two files of one name. A child process
    does not inherit the lock, unless it is forked without exec. Not for two threads at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and create it if it is absent. Raises OSError if that fails."""
        # Opened once: if the folder is deleted and created again, this lock stays on the file that was there.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        # A file that can be opened can be locked, and earlier releases made locks that everybody could open.
        status = os.fstat(self._descriptor)
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            os.fchmod(self._descriptor, 0o600)

    def acquire(self, *, shared: bool = False, timeout_s: float | None = 0.0) -> bool:
        """Lock the file; False if others held it for `timeout_s`: 0 tries once, None waits without limit.

        shared: any number of holders at once, as long as nobody holds the lock exclusively.
        """
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if timeout_s is None:
            fcntl.flock(self._descriptor, operation)
            return True
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_LOCK_POLL_S)
            else:
                return True

    def write(self, data: bytes) -> None:
        """Replace the file's content, which may name the holder."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)

    def close(self) -> None:
        """Unlock and close the file. Calling it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileLock:
        self.acquire(timeout_s=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
