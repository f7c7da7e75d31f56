"""The models' process: loads a profile, then answers one batch after another until its parent is gone.

Started by `attributor.workers.model_process`. It is a separate process because a forward pass and the event loop would
otherwise share one interpreter lock, and because a crash here must not end any call.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from attributor.workers.model_process import Array, Place, view_of
from gmvaluator.errors import GmvaluatorError, ModelFailed
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Models, Prepared

KINDS = ("embed", "quality", "quality_slice")
_NOTHING = np.empty(0, np.uint8)


class Inputs:
    """The memory shared with the parent, seen as an array; mapped anew when the parent has made it larger."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    def view(self, rows: Sequence[Sequence[Place]], size_bytes: int) -> list[list[Array]]:
        """The arrays of the batch that lies there; the same place is the same array."""
        if self._mapped is None or len(self._mapped) < size_bytes:
            self._mapped = mmap.mmap(self._descriptor, size_bytes)
        arrays = {place: view_of(self._mapped, place) for row in rows for place in row}
        return [[arrays[place] for place in row] for row in rows]


def main() -> None:
    """Run `... model_child SOCKET MEMORY PROFILE DEVICE THREADS NICENESS`; the first two are file descriptors."""
    socket, memory, profile, device, threads, niceness = sys.argv[1:]
    # Both signals go to a whole group of processes: calls in flight still need us, and we end with our parent.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(int(niceness))
    prepare_process()
    with Connection(int(socket)) as parent:
        try:
            models = load_models(ProfileChoice.from_text(profile), device, int(threads) or None)
        except Exception as error:  # noqa: BLE001 - the parent waits for an answer
            parent.send(_ours(error))
            return
        parent.send(models.identity)
        _answer_all(parent, models, Inputs(int(memory)))


def _answer_all(parent: Connection, models: Models, inputs: Inputs) -> None:
    while True:
        try:
            kind, rows, size_bytes = parent.recv()
        except EOFError:
            return
        try:
            parent.send(_answer(models, kind, inputs.view(rows, size_bytes)))
        except BrokenPipeError:
            return


def _answer(models: Models, kind: str, rows: list[list[Array]]) -> Any:
    try:
        if kind == "embed":
            return models.embed([Prepared(recall, perceptual, _NOTHING) for recall, perceptual in rows])
        asked = [Prepared(quality, quality, quality) for (quality,) in rows]
        return models.quality(asked) if kind == "quality" else models.quality_slice(asked)
    except Exception as error:  # noqa: BLE001 - models raise anything, and the parent waits for an answer
        return _ours(error)


def _ours(error: Exception) -> GmvaluatorError:
    """Ours as it is, if it can be sent; anything else as ModelFailed."""
    if isinstance(error, GmvaluatorError) and len(error.args) == 1:
        return error
    return ModelFailed(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # torch's threads have nothing left to say
