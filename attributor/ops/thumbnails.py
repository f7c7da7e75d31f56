"""Storage of thumbnails of generated images for the dashboard, bounded in bytes and in age.

A file is named by the SHA-256 of the image that was sent, so that each image is stored once, and erasure finds it by
the evidence of its posting. A thumbnail is encoded from decoded pixels, so no metadata of the image is stored.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gmvaluator.files import atomic_write, private_folder
from gmvaluator.images import generated_path

NONE, THUMBNAIL = "none", "thumbnail"
CHOICES = (NONE, THUMBNAIL)
"""Values of the setting `keep_images`."""

SWEEP_PERIOD_S = 3_600.0
SWEEP_TARGET = 0.9
"""Share of the byte limit that a sweep leaves, so that not every new image causes a sweep."""

DAY_S = 86_400.0


class _File(NamedTuple):
    """A stored thumbnail; sorts oldest first."""

    stored_at: float
    size_bytes: int
    path: str


class ThumbnailStore:
    """A folder of thumbnails, from which a thread deletes expired files and, above the byte limit, the oldest.

    Several processes may share the folder; each applies the limits to all of it.
    """

    def __init__(
        self, folder: Path, max_bytes: int, max_age_s: float, on_problem: Callable[[str], None] = lambda _: None
    ) -> None:
        """on_problem: called with a message if a file cannot be written or deleted; a call never fails for that."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._bytes = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._sweep_until_closed, name="thumbnails", daemon=True)

    def start(self) -> None:
        """Create the folder, readable by its user alone, and start sweeping. Raises OSError."""
        private_folder(self._folder)
        self._thread.start()

    def close(self) -> None:
        """Stop sweeping, and wait for the thread to end."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def keep(self, sha256: str, thumbnail: bytes) -> None:
        """Store a thumbnail, or renew the age of one that is stored; a concurrent reader sees a whole file."""
        try:
            self._write(generated_path(self._folder, sha256), thumbnail)
        except OSError as error:
            self._on_problem(f"the thumbnail of {sha256} was not kept: {error.strerror or error}")
            return
        with self._lock:
            self._bytes += len(thumbnail)
            over_limit = self._bytes > self._max_bytes
        if over_limit:
            self._wake.set()

    def sweep(self, now: float | None = None) -> int:
        """Delete expired files, then the oldest until the rest fits; return how many. now: seconds since 1970."""
        expired_before = (time.time() if now is None else now) - self._max_age_s
        with self._lock:
            # Counts what is stored from now on, which the listing below may lack.
            self._bytes = 0
        files = sorted(self._files())
        total, limit = sum(file.size_bytes for file in files), self._max_bytes
        if total > limit:
            limit = int(limit * SWEEP_TARGET)
        deleted = 0
        for file in files:
            if self._stop.is_set() or (file.stored_at >= expired_before and total <= limit):
                break
            Path(file.path).unlink(missing_ok=True)
            total -= file.size_bytes
            deleted += 1
        with self._lock:
            self._bytes += total
            over_limit = self._bytes > self._max_bytes
        if over_limit:
            self._wake.set()
        return deleted

    def _write(self, path: Path, data: bytes) -> None:
        private_folder(path.parent)
        # Not durable: a thumbnail is shown, never relied on, and a sync for each image would slow the calls down.
        atomic_write(path, data, mode=0o600, durable=False)

    def _files(self) -> Iterator[_File]:
        with os.scandir(self._folder) as folders:
            for folder in [entry.path for entry in folders if entry.is_dir(follow_symlinks=False)]:
                with os.scandir(folder) as files:
                    for file in files:
                        # Another process may delete the file meanwhile.
                        with suppress(FileNotFoundError):
                            state = file.stat(follow_symlinks=False)
                            yield _File(state.st_mtime, state.st_size, file.path)

    def _sweep_until_closed(self) -> None:
        while True:
            # `close` sets `_stop` before `_wake`, and this clears `_wake` before it reads `_stop`: no wake-up is lost.
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.sweep()
            except OSError as error:
                self._on_problem(f"kept thumbnails cannot be swept: {error.strerror or error}")
            self._wake.wait(SWEEP_PERIOD_S)
