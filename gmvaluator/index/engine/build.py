"""The build process: index and quantise the points of a generation that nobody serves yet.

    python -m gmvaluator.index.engine.build GENERATION SETTINGS ENGINE_PID [SOURCE SOURCE_SETTINGS]

With a source every point of it is written anew into the generation, which is absent: a shard's files, its write-ahead
log above all, keep what was deleted, so that nothing less than another shard is free of it.
`optimize()` holds the interpreter's lock until it is done, so it has a process of its own.

The engine's side of a build: copy a shard, and have a process of its own optimise the copy, or write it anew.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import qdrant_edge as edge

from gmvaluator.index.engine.files import copy_tree, remove_tree, sync_tree
from gmvaluator.index.engine.settings import CollectionSettings

_PR_SET_PDEATHSIG = 1
_NICENESS = 5
_PAGE_POINTS = 256


def main(arguments: list[str]) -> int:
    """Optimise the shard in arguments[0] under the settings (JSON) in arguments[1]; durable on return.

    arguments[2]: the process that wants it. 1 is returned if that has ended already. arguments[3:5]: see the module.
    """
    _end_with_parent()
    if os.getppid() != int(arguments[2]):
        return 1
    os.nice(_NICENESS)
    folder, settings = Path(arguments[0]), CollectionSettings.from_dict(json.loads(arguments[1]))
    if len(arguments) > 3:
        shard = edge.EdgeShard.create(str(folder), settings.edge_config())
        old = CollectionSettings.from_dict(json.loads(arguments[4]))
        write_anew(edge.EdgeShard.load(arguments[3], old.edge_config()), shard)
    else:
        shard = edge.EdgeShard.load(str(folder), settings.edge_config())
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(folder)
    return 0


def write_anew(source: edge.EdgeShard, target: edge.EdgeShard) -> None:
    """Write every point of `source`, and its payload's indexes, into the empty `target`; closes `source`."""
    for key, index in source.info().payload_schema.items():
        target.update(edge.UpdateOperation.create_field_index(key, _schema_type(index)))
    offset = None
    while True:
        request = edge.ScrollRequest(offset=offset, limit=_PAGE_POINTS, with_payload=True, with_vector=True)
        records, offset = source.scroll(request)
        points = [edge.Point(one.id, one.vector or {}, one.payload or {}) for one in records]
        if points:
            target.update(edge.UpdateOperation.upsert_points(points))
        if offset is None:
            break
    source.close()


def _schema_type(index: edge.PayloadIndexInfo) -> edge.PayloadSchemaType:
    """An index's description and the type that makes one are apart in qdrant-edge, and have the same names."""
    found: edge.PayloadSchemaType = getattr(edge.PayloadSchemaType, repr(index.data_type).rpartition(".")[2])
    return found


def _end_with_parent() -> None:
    """Ask Linux to end this process with the engine's build thread: an orphan would write into a folder that the
    next engine removes, and keep every core busy."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


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
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
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
