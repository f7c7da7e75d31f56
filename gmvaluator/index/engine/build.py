"""The build process: index and quantise the points of a generation that nobody serves yet.

    python -m gmvaluator.index.engine.build GENERATION SETTINGS ENGINE_PID [SOURCE SOURCE_SETTINGS]

With a source every point of it is written anew into the generation, which is absent: a shard's files, its write-ahead
log above all, keep what was deleted, so that nothing less than another shard is free of it.
`optimize()` holds the interpreter's lock until it is done, so it has a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

import qdrant_edge as edge

from gmvaluator.index.engine.files import sync_tree
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
