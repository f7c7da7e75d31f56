"""Thumbnails of generated images, kept for the dashboard where the operator wants them: bounded in bytes and in age.

A file is named by the SHA-256 of the image that was sent, so the same image is kept once, and an erased one is found
again by the evidence of its posting. What is written is a picture made anew of pixels: no metadata travels.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gmvaluator.files import atomic_write
from gmvaluator.images import generated_path

NONE, THUMBNAIL = "none", "thumbnail"
CHOICES = (NONE, THUMBNAIL)
SWEEP_S = 3_600.0
LEFT_AFTER_SWEEP = 0.9
"""Of the bytes allowed, so that not every image sweeps."""
DAY_S = 86_400.0


class _Kept(NamedTuple):
    """One file. Sorted: the oldest first."""

    kept_at: float
    size_bytes: int
    path: str


class ThumbnailStore:
    """The folder of kept thumbnails. A thread deletes what is too old, and the oldest where there is too much.

    Several processes may share the folder; each bounds all of it.
    """

    def __init__(
        self, folder: Path, max_bytes: int, max_age_s: float, on_problem: Callable[[str], None] = lambda _: None
    ) -> None:
        """on_problem: told what could not be written or deleted; keeping a picture never fails a call."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._bytes = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._sweep_for_ever, name="kept-images", daemon=True)

    def start(self) -> None:
        """Make the folder, readable by its user alone, and begin to sweep. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sweeping."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def keep(self, sha256: str, thumbnail: bytes) -> None:
        """Write one, or make one that is there new again; whoever reads meanwhile sees a whole file."""
        try:
            self._write(generated_path(self._folder, sha256), thumbnail)
        except OSError as error:
            self._on_problem(f"the thumbnail of {sha256} was not kept: {error.strerror or error}")
            return
        with self._lock:
            self._bytes += len(thumbnail)
            too_much = self._bytes > self._max_bytes
        if too_much:
            self._wake.set()

    def sweep(self, now: float | None = None) -> int:
        """Delete what is too old, then the oldest until the rest fits; how many files went. now: seconds since 1970."""
        moment = time.time() if now is None else now
        files = sorted(self._files())
        total, room = sum(one.size_bytes for one in files), self._max_bytes
        if total > room:
            room = int(room * LEFT_AFTER_SWEEP)
        deleted = 0
        for one in files:
            if self._stop.is_set() or (one.kept_at >= moment - self._max_age_s and total <= room):
                break
            self._delete(one.path)
            total -= one.size_bytes
            deleted += 1
        with self._lock:
            self._bytes = total
        return deleted

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not durable: a thumbnail is shown, never relied on, and a sync for each image would slow the calls down.
        atomic_write(path, data, mode=0o600, durable=False)

    def _files(self) -> Iterator[_Kept]:
        with os.scandir(self._folder) as folders:
            for folder in [one.path for one in folders if one.is_dir(follow_symlinks=False)]:
                with os.scandir(folder) as files:
                    for file in files:
                        # Another process may delete it while we look.
                        with suppress(FileNotFoundError):
                            state = file.stat(follow_symlinks=False)
                            yield _Kept(state.st_mtime, state.st_size, file.path)

    def _delete(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def _sweep_for_ever(self) -> None:
        while True:
            # Cleared before `_stop` is read, which `close` sets first: its wake-up cannot be lost between the two.
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.sweep()
            except OSError as error:
                self._on_problem(f"kept thumbnails cannot be swept: {error.strerror or error}")
            self._wake.wait(SWEEP_S)
