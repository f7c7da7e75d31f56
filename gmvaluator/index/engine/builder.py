"""The engine's side of a build: copy a shard, and have a process of its own optimise the copy, or write it anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from gmvaluator.index.engine.files import copy_tree, remove_tree
from gmvaluator.index.engine.settings import CollectionSettings


class BuildStopped(Exception):
    """The build was stopped because the engine ends."""


class BuildFailed(Exception):
    """The build process ended with an error."""


class Builder:
    """One build into `folder`, which is absent at first and, if the build fails, at last.

    old_settings: those of the shard that is copied, where every point is to be written anew; None to optimise the copy.
    """

    def __init__(
        self, folder: Path, settings: CollectionSettings, old_settings: CollectionSettings | None = None
    ) -> None:
        self.folder = folder
        self._settings = settings
        self._old_settings = old_settings
        self._source = folder.with_name(f"{folder.name}.from")
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def copy(self, shard: Path) -> None:
        """Copy the files of `shard`, which nobody writes meanwhile."""
        copy_tree(shard, self.folder if self._old_settings is None else self._source)

    def run(self) -> None:
        """Index and quantise everything in the copy; returns when it is durable. Raises BuildStopped, BuildFailed."""
        with self._lock:
            if self._stopped:
                raise BuildStopped
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        status = self._process.wait()
        if self._stopped:
            raise BuildStopped
        if status != 0:
            raise BuildFailed(f"the build process ended with status {status}: the engine's log says why; build again")
        remove_tree(self._source)

    def _command(self) -> list[str]:
        module = "gmvaluator.index.engine.build"
        command = [sys.executable, "-P", "-m", module, str(self.folder), _json(self._settings), str(os.getpid())]
        return command if self._old_settings is None else [*command, str(self._source), _json(self._old_settings)]

    def stop(self) -> None:
        """End the process, if it runs, at once: its work is not in use yet."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def discard(self) -> None:
        """Remove what was made."""
        remove_tree(self._source)
        remove_tree(self.folder)


def _json(settings: CollectionSettings) -> str:
    return json.dumps(settings.as_dict())
