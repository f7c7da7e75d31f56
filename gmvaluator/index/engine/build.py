"""Build of a generation: a child process that indexes and quantises a copy of a shard.

    python -m gmvaluator.index.engine.build GENERATION SETTINGS ENGINE_PID [SOURCE SOURCE_SETTINGS]

Without a source, GENERATION is a copy of the served shard, which is optimised. With a source, GENERATION is absent and
every point of the source is written into it: the files of a shard, its write-ahead log above all, keep deleted data, so
only a new shard is free of it.

A build runs in its own process because `optimize()` holds the interpreter lock until it is done.
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

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_NICENESS = 5
"""Niceness of the build process, so that searches go first."""

_PAGE_POINTS = 256


class BuildStopped(Exception):
    """The build was stopped because the engine shuts down."""


class BuildFailed(Exception):
    """The build process exited with an error."""


class Builder:
    """A build of a generation in `folder`, which must be absent; `discard` removes it after a failure.

    settings: of the new generation. old_settings: settings of the copied shard, if every point is to be rewritten; None
    optimises the copy itself.
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
        """Copy the files of `shard`. The caller must block writes meanwhile."""
        copy_tree(shard, self.folder if self._old_settings is None else self._source)

    def run(self) -> None:
        """Index and quantise the copied points; return when they are durable. Raises BuildStopped, BuildFailed."""
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
        """Kill the build process, if it runs. Nothing uses its work yet."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def discard(self) -> None:
        """Remove the files of an unfinished build."""
        remove_tree(self._source)
        remove_tree(self.folder)


def _json(settings: CollectionSettings) -> str:
    return json.dumps(settings.as_dict())


def main(arguments: list[str]) -> int:
    """Run a build and return its exit code; the generation is durable then.

    arguments: the generation's folder, its settings as JSON, the engine's process id, and optionally the source's
    folder and settings. Returns 1 if the engine has already ended.
    """
    _end_with_parent()
    # The engine may have died before the call above took effect.
    if os.getppid() != int(arguments[2]):
        return 1
    os.nice(_NICENESS)
    folder, settings = Path(arguments[0]), CollectionSettings.from_dict(json.loads(arguments[1]))
    if len(arguments) > 3:
        shard = edge.EdgeShard.create(str(folder), settings.edge_config())
        old = CollectionSettings.from_dict(json.loads(arguments[4]))
        rewrite_points(edge.EdgeShard.load(arguments[3], old.edge_config()), shard)
    else:
        shard = edge.EdgeShard.load(str(folder), settings.edge_config())
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(folder)
    return 0


def rewrite_points(source: edge.EdgeShard, target: edge.EdgeShard) -> None:
    """Copy all points and payload indexes of `source` into the empty shard `target`, and close `source`."""
    for key, index in source.info().payload_schema.items():
        target.update(edge.UpdateOperation.create_field_index(key, _schema_type(index)))
    offset = None
    while True:
        request = edge.ScrollRequest(offset=offset, limit=_PAGE_POINTS, with_payload=True, with_vector=True)
        records, offset = source.scroll(request)
        points = [edge.Point(record.id, record.vector or {}, record.payload or {}) for record in records]
        if points:
            target.update(edge.UpdateOperation.upsert_points(points))
        if offset is None:
            break
    source.close()


def _schema_type(index: edge.PayloadIndexInfo) -> edge.PayloadSchemaType:
    """Return the type with which to create an index like `index`."""
    # qdrant-edge describes an index by another enumeration than the one that creates it, with the same names.
    schema_type: edge.PayloadSchemaType = getattr(edge.PayloadSchemaType, repr(index.data_type).rpartition(".")[2])
    return schema_type


def _end_with_parent() -> None:
    """Have Linux kill this process when the engine's build thread ends."""
    # An orphan would write into a folder that the next engine removes, and keep every core busy.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
