"""Decoding of images to the models' inputs in child processes, off the event loop.

A crash or a decompression bomb costs one process and one image.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog
from PIL import Image

from attributor.workers.confinement import COMPLETE
from attributor.workers.decoder_process import DecoderLost, DecoderProcess
from gmvaluator.errors import InvalidImage, Unavailable
from gmvaluator.ids import sha256_hex
from gmvaluator.image_headers import Header
from gmvaluator.images import check_image, thumbnail
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Prepare, Prepared

TIMEOUT_S = 15.0
"""Time to decode one image; the largest that is accepted takes a second on an idle core."""

_log = structlog.get_logger("attributor")


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image, ready for the models. thumbnail: WebP made of its pixels, if one was requested."""

    facts: ImageFacts
    inputs: Prepared
    thumbnail: bytes | None = None


class EncodedImage(NamedTuple):
    """An image file whose header was parsed. header: None if it was refused.

    refusal: why, as an error that was never raised. A raised error refers to frames that hold the file, so one that
    is stored with the file would keep megabytes in a reference cycle.
    """

    data: bytes
    header: Header | None
    refusal: InvalidImage | None = None

    @classmethod
    def parse(cls, data: bytes) -> EncodedImage:
        """Check size and header. A refusal is kept, because an id that is used already is reported before it."""
        try:
            return cls(data, check_image(data))
        except InvalidImage as error:
            return cls(data, None, type(error)(*error.args))

    @property
    def pixels(self) -> int:
        """Pixels to decode; 0 if the header was refused."""
        return 0 if self.header is None else self.header.width * self.header.height

    def check(self) -> None:
        """Raise the refusal, InvalidImage or ImageTooLarge, if there is one."""
        if self.refusal is not None:
            raise type(self.refusal)(*self.refusal.args)


class Decoder(Protocol):
    """A decoder of images that never blocks the event loop, however slow or hostile the images are."""

    async def decode(self, image: EncodedImage, with_thumbnail: bool = False, parts: bool = True) -> Decoded:
        """Return the models' inputs; parts: see `QueryModels.prepare`. Raises InvalidImage or ImageTooLarge."""


@dataclass(slots=True)
class DecoderCounts:
    """Counts since the start. restarts: processes that were lost and replaced."""

    decoded: int = 0
    refused: int = 0
    restarts: int = 0


class DecoderPool:
    """A `Decoder` with `processes` processes, each served by a thread of its own.

    A file whose header was refused never reaches a process. A process may be killed from outside, or be slow with the
    whole machine, so an image whose process was lost or late is retried once in a new process. If that fails as well,
    the image is refused if it may be the cause, and the call is Unavailable otherwise.
    """

    def __init__(
        self,
        prepare: Prepare,
        processes: int = 2,
        timeout_s: float = TIMEOUT_S,
        check_size: Callable[[int, int], None] = lambda width, height: None,  # noqa: ARG005
    ) -> None:
        """prepare: `Models.prepare`; it runs in the pool's threads. check_size: refuses images by width and height."""
        self._prepare = prepare
        self._check_size = check_size
        self._count = processes
        self._timeout_s = timeout_s
        self._idle: queue.SimpleQueue[DecoderProcess | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decoder")
        self._lock = threading.Lock()
        self.counts = DecoderCounts()

    def start(self) -> None:
        """Start the processes; blocks. Raises Unavailable."""
        for process in self._threads.map(lambda _: _start_process(), range(self._count)):
            self._idle.put(process)
        if process.confinement != COMPLETE:
            _log.warning(
                "decoders are not fully confined: the kernel lacks Landlock or seccomp", has=process.confinement
            )

    async def decode(self, image: EncodedImage, with_thumbnail: bool = False, parts: bool = True) -> Decoded:
        """Implement `Decoder`; raises Unavailable, too, if no process starts or stays alive, or after `close`."""
        try:
            loop = asyncio.get_running_loop()
            decoding = loop.run_in_executor(self._threads, self._decode, image, with_thumbnail, parts)
        except RuntimeError as error:
            raise Unavailable("the attributor is stopping: send the image again, with the same id") from error
        try:
            return await decoding
        finally:
            # A refusal's traceback refers to this frame, and the future to the refusal: a cycle with the whole image.
            del decoding

    @property
    def process_ids(self) -> list[int]:
        """Ids of the processes that are idle now, for tests that kill them."""
        processes = [self._idle.get() for _ in range(self._idle.qsize())]
        for process in processes:
            self._idle.put(process)
        return [process.process_id for process in processes if process is not None]

    def close(self) -> None:
        """Wait for the images that are being decoded, refuse the others, and end the processes."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            process = self._idle.get()
            if process is not None:
                process.close()

    def _decode(self, file: EncodedImage, with_thumbnail: bool, parts: bool) -> Decoded:
        try:
            file.check()
            if file.header is not None:
                self._check_size(file.header.width, file.header.height)
            image = self._image(file.data)
        except InvalidImage:
            self._increment("refused")
            raise
        self._increment("decoded")
        facts = ImageFacts(sha256_hex(file.data), image.width, image.height, len(file.data))
        return Decoded(facts, self._prepare(image, parts), thumbnail(image) if with_thumbnail else None)

    def _image(self, data: bytes) -> Image.Image:
        # None stands for a process that was lost; a new one is started when it is needed.
        process = self._idle.get()
        fresh = process is None
        try:
            while True:
                process = process or _start_process()
                try:
                    return process.decode(data, self._timeout_s)
                except DecoderLost as error:
                    self._end(process, error)
                    process = None
                    if fresh and error.by_image:
                        raise InvalidImage(f"the image cannot be decoded: {error}") from error
                    if fresh:
                        raise Unavailable(f"no decoder stays alive ({error}): send the image again later") from error
                    fresh = True
        finally:
            self._idle.put(process)

    def _end(self, process: DecoderProcess, error: DecoderLost) -> None:
        _log.warning("decoder lost", error=str(error), process_id=process.process_id)
        process.close()
        self._increment("restarts")

    def _increment(self, name: str) -> None:
        with self._lock:
            setattr(self.counts, name, getattr(self.counts, name) + 1)


def _start_process() -> DecoderProcess:
    try:
        return DecoderProcess()
    except (DecoderLost, OSError) as error:
        raise Unavailable(f"no process to decode images can be started: {error}") from error
