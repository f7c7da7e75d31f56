"""The build process: index and quantise the points of a generation that nobody serves yet.

    python -m gmvaluator.index.engine.build GENERATION SETTINGS ENGINE_PID

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


def main(arguments: list[str]) -> int:
    """Optimise the shard in arguments[0] under the settings (JSON) in arguments[1]; durable on return.

    arguments[2]: the process that wants it. 1 is returned if that has ended already.
    """
    _end_with_parent()
    if os.getppid() != int(arguments[2]):
        return 1
    os.nice(_NICENESS)
    folder, settings = Path(arguments[0]), CollectionSettings.from_dict(json.loads(arguments[1]))
    shard = edge.EdgeShard.load(str(folder), settings.edge_config())
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(folder)
    return 0


def _end_with_parent() -> None:
    """Ask Linux to end this process with the engine's build thread: an orphan would write into a folder that the
    next engine removes, and keep every core busy."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
