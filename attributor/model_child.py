"""The models' process: loads a profile, then answers one batch after another until its parent is gone.

Started by `attributor.model_process`. A process of its own, because a forward pass and the event loop would take turns
on one interpreter's lock, and because what crashes here takes no call with it.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gmvaluator.errors import GmvaluatorError, ModelFailed
from gmvaluator.models.process import prepare_process
from gmvaluator.models.registry import load_models
from gmvaluator.ports import Float32Array, Models

KINDS = ("embed", "quality")


class Inputs:
    """The memory shared with the parent, seen as an array; mapped anew when the parent has made it larger."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    def view(self, shape: tuple[int, ...], size_bytes: int) -> Float32Array:
        """The batch that lies there: (B, 3, H, W) float32."""
        if self._mapped is None or len(self._mapped) < size_bytes:
            self._mapped = mmap.mmap(self._descriptor, size_bytes)
        count = int(np.prod(shape))
        return np.frombuffer(self._mapped, np.float32, count).reshape(shape)


def main() -> None:
    """`python -m attributor.model_child SOCKET MEMORY PROFILE DEVICE THREADS`; the first two are descriptors."""
    socket, memory, profile, device, threads = sys.argv[1:]
    # Both signals go to a whole group of processes: calls in flight still need us, and we end with our parent.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prepare_process()
    with Connection(int(socket)) as parent:
        try:
            models = load_models(profile, device, int(threads) or None)
        except Exception as error:  # noqa: BLE001 - the parent waits for an answer
            parent.send(_ours(error))
            return
        parent.send(models.identity)
        _answer_all(parent, models, Inputs(int(memory)))


def _answer_all(parent: Connection, models: Models, inputs: Inputs) -> None:
    while True:
        try:
            kind, shape, size_bytes = parent.recv()
        except EOFError:
            return
        try:
            parent.send(_answer(models, kind, inputs.view(shape, size_bytes)))
        except BrokenPipeError:
            return


def _answer(models: Models, kind: str, inputs: Float32Array) -> Any:
    try:
        return models.embed(inputs) if kind == "embed" else models.quality(inputs)
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
