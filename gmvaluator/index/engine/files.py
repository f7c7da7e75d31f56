"""Durable file operations, and copies of a shard's sparse files."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

from gmvaluator.files import sync

_CHUNK_BYTES = 64 * 1024 * 1024
_REMOVAL_S, _PAUSE_S = 10.0, 0.05


def sync_tree(folder: Path) -> None:
    """Flush every file and directory under `folder` to disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def remove_tree(folder: Path) -> None:
    """Delete a folder if it exists. Raises OSError if that still fails after 10 s."""
    # A process that was just killed may still create files in it.
    deadline = time.monotonic() + _REMOVAL_S
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder of regular files, and keep their holes."""
    # An idle write-ahead log is a file of 64 MB that is almost all hole.
    for parent, _, names in os.walk(source):
        folder = target / Path(parent).relative_to(source)
        folder.mkdir()
        for name in names:
            _copy_sparse(Path(parent) / name, folder / name)


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        size = os.fstat(read.fileno()).st_size
        os.ftruncate(write.fileno(), size)
        start = _next_data(read.fileno(), 0)
        while start is not None and start < size:
            end = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            _copy_range(read.fileno(), write.fileno(), start, end)
            start = _next_data(read.fileno(), end)


def _next_data(descriptor: int, offset: int) -> int | None:
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _copy_range(read: int, write: int, start: int, end: int) -> None:
    os.lseek(write, start, os.SEEK_SET)
    while start < end:
        sent = os.sendfile(write, read, start, min(_CHUNK_BYTES, end - start))
        if sent == 0:
            raise OSError(errno.EIO, "the file shrank while it was copied")
        start += sent
