"""The parent's side of the models' process: pixels go through shared memory, vectors come back through a socket.

Where arrays lie in the memory that the attributor shares with its models' process.
"""

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


class Place(NamedTuple):
    """One array: its first byte, numpy's name of its dtype, its shape."""

    start: int
    dtype: str
    shape: tuple[int, ...]


def view_of(memory: mmap.mmap | None, place: Place) -> Array:
    """The array at `place`; no copy."""
    if memory is None:
        raise ValueError("the memory is not mapped")
    count = int(np.prod(place.shape))
    return np.frombuffer(memory, place.dtype, count, place.start).reshape(place.shape)


LOAD_S = 600.0
"""Until the models are loaded: reading gigabytes from a slow disk takes minutes."""

EMBED_S = 120.0
"""One batch of embeddings; a process that takes longer hangs, and is replaced."""

QUALITY_S = 1_800.0
"""One batch of qualities: MANIQA takes half a minute an image on one core."""

END_S = 10.0

_ALIGNED_BYTES = 64


class ModelProcess:
    """`ports.QueryModels` in a process of its own. One thread calls `embed`, `quality` and `close`.

    Raises Unavailable once the process is gone: it has to be made anew.
    """

    def __init__(
        self, profile: str | ProfileChoice, device: str = "cpu", threads: int | None = None, niceness: int = 0
    ) -> None:
        """Start the process and wait until the models are loaded; niceness: how far others go before it on the CPU.

        Raises what `load_models` raises, or Unavailable.
        """
        self._prepare = input_maker(profile)
        self._inputs = _SharedInputs()
        ours, theirs = socket.socketpair()
        words = [
            str(theirs.fileno()),
            str(self._inputs.descriptor),
            as_choice(profile).as_text(),
            device,
            str(threads or 0),
            str(niceness),
        ]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "attributor.workers.model_child", *words],
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

    def prepare(self, image: Image) -> Prepared:
        """RGB image to the models' inputs, in the caller's thread; needs no weights."""
        return self._prepare(image)

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """B images to embeddings. Raises ModelFailed, or Unavailable if the process died over it."""
        answer: Embeddings = self._ask("embed", [(one.recall, one.perceptual) for one in inputs], EMBED_S)
        return answer

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """B images to (B,) in [0, 1]. Raises as `embed` does."""
        answer: Float32Array = self._ask("quality", [(one.quality,) for one in inputs], QUALITY_S)
        return answer

    def quality_slice(self, inputs: Sequence[Prepared]) -> Sequence[float | None]:
        """A part of that; see the port. Raises as `embed` does."""
        answer: Sequence[float | None] = self._ask("quality_slice", [(one.quality,) for one in inputs], QUALITY_S)
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

    def _ask(self, kind: str, inputs: Sequence[tuple[Array, ...]], timeout_s: float) -> Any:
        try:
            places = self._inputs.put(inputs)
            self._connection.send((kind, places, self._inputs.size_bytes))
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

    def put(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Place, ...]]:
        """Copy a batch there, an array that several inputs share once; the memory grows to the largest batch."""
        places: dict[int, Place] = {}
        end = 0
        for array in (array for row in rows for array in row):
            if id(array) not in places:
                places[id(array)] = Place(end, array.dtype.str, array.shape)
                end += -(-array.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
        self._make_room(end)
        for array in {id(array): array for row in rows for array in row}.values():
            view_of(self._mapped, places[id(array)])[...] = array
        return [tuple(places[id(array)] for array in row) for row in rows]

    def _make_room(self, size_bytes: int) -> None:
        if self._mapped is None or size_bytes > self.size_bytes:
            self.size_bytes = max(size_bytes, _ALIGNED_BYTES)
            os.ftruncate(self.descriptor, self.size_bytes)
            self._mapped = mmap.mmap(self.descriptor, self.size_bytes)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor, self._mapped = -1, None
