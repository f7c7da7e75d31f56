"""The models' process: loads a profile, then computes one batch after another until its parent closes the socket.

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

from attributor.workers.model_process import NO_INPUT, Array, BufferSlice, array_view
from gmvaluator.errors import GmvaluatorError, ModelFailed
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Models, Prepared


class Inputs:
    """The memory shared with the parent; mapped again when the parent has grown it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    def view(self, rows: Sequence[Sequence[BufferSlice]], size_bytes: int) -> list[list[Array]]:
        """Return the arrays of the batch, without a copy; equal locations give the same array object."""
        if self._mapped is None or len(self._mapped) < size_bytes:
            self._mapped = mmap.mmap(self._descriptor, size_bytes)
        arrays = {location: array_view(self._mapped, location) for row in rows for location in row}
        return [[arrays[location] for location in row] for row in rows]


def main() -> None:
    """Run `... model_child SOCKET MEMORY PROFILE DEVICE THREADS NICENESS`; the first two are file descriptors."""
    socket, memory, profile, device, threads, niceness = sys.argv[1:]
    # Both signals go to the whole process group: calls in flight still need this process, which ends with its parent.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(int(niceness))
    prepare_process()
    with Connection(int(socket)) as parent:
        try:
            models = load_models(ProfileChoice.from_text(profile), device, int(threads) or None)
        except Exception as error:  # noqa: BLE001 - the parent waits for an answer
            parent.send(_as_our_error(error))
            return
        parent.send(models.identity)
        _serve(parent, models, Inputs(int(memory)))


def _serve(parent: Connection, models: Models, inputs: Inputs) -> None:
    while True:
        try:
            method, rows, size_bytes = parent.recv()
        except EOFError:
            return
        try:
            parent.send(_compute(models, method, inputs.view(rows, size_bytes)))
        except BrokenPipeError:
            return


def _compute(models: Models, method: str, rows: list[list[Array]]) -> Any:
    """Return the method's result, or the error that it raised."""
    try:
        if method == "embed":
            return models.embed(
                [
                    Prepared(recall, perceptual, NO_INPUT, windows if windows.size else None)
                    for recall, perceptual, windows in rows
                ]
            )
        prepared = [Prepared(quality, quality, quality) for (quality,) in rows]
        return models.quality(prepared) if method == "quality" else models.quality_slice(prepared)
    except Exception as error:  # noqa: BLE001 - models raise anything, and the parent waits for an answer
        return _as_our_error(error)


def _as_our_error(error: Exception) -> GmvaluatorError:
    """Return a GmvaluatorError as it is, if pickle can restore it from its message; else ModelFailed."""
    if isinstance(error, GmvaluatorError) and len(error.args) == 1:
        return error
    return ModelFailed(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # torch's threads may hang in their own shutdown, and have nothing left to write
