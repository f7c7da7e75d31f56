"""The parent's side of the models' process: inputs go through shared memory, results come back through a socket."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import GmvaluatorError, Unavailable
from gmvaluator.models.choice import ProfileChoice, as_choice
from gmvaluator.models.profiles import input_maker
from gmvaluator.ports import Embeddings, Float32Array, Prepared
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[Any]

LOAD_TIMEOUT_S = 600.0
"""Time to load the models: reading gigabytes from a slow disk takes minutes."""

EMBED_TIMEOUT_S = 120.0
"""Time for one batch of embeddings; a process that takes longer hangs, and is replaced."""

QUALITY_TIMEOUT_S = 1_800.0
"""Time for one batch of qualities: MANIQA takes half a minute an image on one core."""

EXIT_TIMEOUT_S = 10.0
"""Time that the process gets to exit by itself; then it is killed."""

NO_INPUT = np.empty(0, np.uint8)
"""Input of a model that is absent or not run."""

_ALIGNMENT_BYTES = 64
"""Alignment of arrays in the shared memory: a cache line, and the widest vector instructions."""


class BufferSlice(NamedTuple):
    """An array in shared memory: its first byte, numpy's name of its dtype, its shape."""

    start: int
    dtype: str
    shape: tuple[int, ...]


def array_view(memory: mmap.mmap | None, location: BufferSlice) -> Array:
    """Return the array at `location` without a copy."""
    if memory is None:
        raise ValueError("the memory is not mapped")
    count = int(np.prod(location.shape))
    return np.frombuffer(memory, location.dtype, count, location.start).reshape(location.shape)


class ModelProcess:
    """Models (`ports.QueryModels`) in a child process. One thread calls `embed`, `quality` and `close`.

    Every method that computes raises Unavailable once the process has ended: then a new one has to be made.
    """

    def __init__(
        self, profile: str | ProfileChoice, device: str = "cpu", threads: int | None = None, niceness: int = 0
    ) -> None:
        """Start the process and wait until the models are loaded. niceness: added to that of this process.

        Raises what `load_models` raises, or Unavailable.
        """
        self._prepare = input_maker(profile)
        self._inputs = _SharedInputs()
        ours, theirs = socket.socketpair()
        arguments = [
            str(theirs.fileno()),
            str(self._inputs.descriptor),
            as_choice(profile).as_text(),
            device,
            str(threads or 0),
            str(niceness),
        ]
        # A new interpreter and not a fork, which would copy locks that other threads hold.
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "attributor.workers.model_child", *arguments],
            pass_fds=(theirs.fileno(), self._inputs.descriptor),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        try:
            self._identity: ProfileIdentity = self._receive(LOAD_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> ProfileIdentity:
        return self._identity

    @property
    def process_id(self) -> int:
        """Id of the process, for monitoring and for tests that kill it."""
        return self._process.pid

    def prepare(self, image: Image, parts: bool = True) -> Prepared:
        """Convert an RGB image to the models' inputs, in the calling thread; needs no weights."""
        return self._prepare(image, parts)

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B images. Raises ModelFailed, or Unavailable if the process died over it."""
        rows = [
            (prepared.recall, prepared.perceptual, NO_INPUT if prepared.windows is None else prepared.windows)
            for prepared in inputs
        ]
        embeddings: Embeddings = self._call("embed", rows, EMBED_TIMEOUT_S)
        return embeddings

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Return the quality of B images, (B,) in [0, 1], higher is better. Raises as `embed` does."""
        qualities: Float32Array = self._call("quality", _quality_rows(inputs), QUALITY_TIMEOUT_S)
        return qualities

    def quality_slice(self, inputs: Sequence[Prepared]) -> Sequence[float | None]:
        """Compute a part of `quality`; see the port. Raises as `embed` does."""
        qualities: Sequence[float | None] = self._call("quality_slice", _quality_rows(inputs), QUALITY_TIMEOUT_S)
        return qualities

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._connection.close()
        try:
            self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._inputs.close()

    def _call(self, method: str, rows: Sequence[tuple[Array, ...]], timeout_s: float) -> Any:
        try:
            locations = self._inputs.put(rows)
            self._connection.send((method, locations, self._inputs.size_bytes))
        except OSError as error:
            raise self._lost() from error
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._connection.poll(timeout_s):
                # A late result would be taken for that of the next batch.
                self._process.kill()
                raise Unavailable(f"the models' process did not answer in {timeout_s:.0f} s: send the image again")
            result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(result, GmvaluatorError):
            raise result
        return result

    def _lost(self) -> Unavailable:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return Unavailable(
            f"the models' process ended (exit code {self._process.returncode}); it is started again: send the image "
            "again, with the same id"
        )


def _quality_rows(inputs: Sequence[Prepared]) -> list[tuple[Array, ...]]:
    return [(prepared.quality,) for prepared in inputs]


class _SharedInputs:
    """Shared memory for the inputs of one batch.

    It has no name in the file system, so the kernel frees it with its last user, even after a crash.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("gmvaluator-inputs")
        self.size_bytes = 0
        self._mapped: mmap.mmap | None = None

    def put(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[BufferSlice, ...]]:
        """Copy a batch into the memory, which grows to the largest batch; return the location of each array.

        An array that several inputs share, such as one image for two models, is copied once.
        """
        arrays = {id(array): array for row in rows for array in row}
        locations: dict[int, BufferSlice] = {}
        end = 0
        for identity, array in arrays.items():
            locations[identity] = BufferSlice(end, array.dtype.str, array.shape)
            end += -(-array.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self._grow(end)
        for identity, array in arrays.items():
            array_view(self._mapped, locations[identity])[...] = array
        return [tuple(locations[id(array)] for array in row) for row in rows]

    def _grow(self, size_bytes: int) -> None:
        if self._mapped is None or size_bytes > self.size_bytes:
            self.size_bytes = max(size_bytes, _ALIGNMENT_BYTES)
            os.ftruncate(self.descriptor, self.size_bytes)
            self._mapped = mmap.mmap(self.descriptor, self.size_bytes)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor, self._mapped = -1, None
