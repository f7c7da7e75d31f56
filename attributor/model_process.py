"""The parent's side of the models' process: pixels go through shared memory, vectors come back through a socket."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from gmvaluator.errors import GmvaluatorError, Unavailable
from gmvaluator.models.registry import input_maker
from gmvaluator.ports import Embeddings, Float32Array
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from PIL.Image import Image

LOAD_S = 600.0
"""Until the models are loaded: reading gigabytes from a slow disk takes minutes."""

EMBED_S = 120.0
"""One batch of embeddings; a process that takes longer hangs, and is replaced."""

QUALITY_S = 1_800.0
"""One batch of qualities: MANIQA takes half a minute an image on one core."""

END_S = 10.0


class ModelProcess:
    """`ports.QueryModels` in a process of its own. One thread calls `embed`, `quality` and `close`.

    Raises Unavailable once the process is gone: it has to be made anew.
    """

    def __init__(self, profile: str, device: str = "cpu", threads: int | None = None) -> None:
        """Start the process and wait until the models are loaded. Raises what `load_models` raises, or Unavailable."""
        self._prepare = input_maker(profile)
        self._inputs = _SharedInputs()
        ours, theirs = socket.socketpair()
        words = [str(theirs.fileno()), str(self._inputs.descriptor), profile, device, str(threads or 0)]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "attributor.model_child", *words],
            pass_fds=(theirs.fileno(), self._inputs.descriptor),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        try:
            self._identity: ProfileIdentity = self._answer(LOAD_S)
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> ProfileIdentity:
        return self._identity

    @property
    def process_id(self) -> int:
        """For those who watch it, or end it in a test."""
        return self._process.pid

    def prepare(self, image: Image) -> Float32Array:
        """RGB image to model input, in the caller's thread; needs no weights."""
        return self._prepare(image)

    def embed(self, inputs: Float32Array) -> Embeddings:
        """(B, 3, H, W) float32 to embeddings. Raises ModelFailed, or Unavailable if the process died over it."""
        answer: Embeddings = self._ask("embed", inputs, EMBED_S)
        return answer

    def quality(self, inputs: Float32Array) -> Float32Array:
        """(B, 3, H, W) float32 to (B,) in [0, 1]. Raises as `embed` does."""
        answer: Float32Array = self._ask("quality", inputs, QUALITY_S)
        return answer

    def close(self) -> None:
        """End the process. Harmless when done twice."""
        self._connection.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._inputs.close()

    def _ask(self, kind: str, inputs: Float32Array, timeout_s: float) -> Any:
        try:
            self._inputs.put(inputs)
            self._connection.send((kind, inputs.shape, self._inputs.size_bytes))
        except OSError as error:
            raise self._lost() from error
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> Any:
        try:
            if not self._connection.poll(timeout_s):
                self._process.kill()
                raise Unavailable(f"the models' process did not answer in {timeout_s:.0f} s: send the image again")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(answer, GmvaluatorError):
            raise answer
        return answer

    def _lost(self) -> Unavailable:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return Unavailable(
            f"the models' process ended (exit code {self._process.returncode}); it is started again: send the image "
            "again, with the same id"
        )


class _SharedInputs:
    """Memory without a name, which vanishes with its last user, however that ends."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("gmvaluator-inputs")
        self.size_bytes = 0
        self._mapped: mmap.mmap | None = None

    def put(self, inputs: Float32Array) -> None:
        """Copy a batch there; the memory grows to the largest batch."""
        if self._mapped is None or inputs.nbytes > self.size_bytes:
            self.size_bytes = inputs.nbytes
            os.ftruncate(self.descriptor, self.size_bytes)
            self._mapped = mmap.mmap(self.descriptor, self.size_bytes)
        np.frombuffer(self._mapped, np.float32, inputs.size)[:] = inputs.reshape(-1)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor, self._mapped = -1, None
