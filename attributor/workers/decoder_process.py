"""The parent's side of one decoder's process.

Memory shared with a decoder's process: the file goes in, pixels come out, and nothing is parsed on the way back.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import subprocess
import sys
import time

from PIL import Image

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.errors import Failure, ImageTooLarge, InvalidImage
from gmvaluator.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

CHANNELS = 3
SLOT_BYTES = MAX_IMAGE_BYTES + CHANNELS * MAX_IMAGE_PIXELS
KEPT_BYTES = 4 * 1024 * 1024
"""A slot that held more than this gives its memory back."""

REPLY = struct.Struct("<BIIH")
"""outcome, width, height, length of the message that follows."""

DECODED, REFUSED, TOO_LARGE = range(3)
REQUEST = struct.Struct("<I")
"""Length of the file."""

_ADD_SEALS = 1033
_SEAL_SIZE = 0x0001 | 0x0002 | 0x0004
"""Never sealed otherwise, shrunk or grown: a shrunk slot would kill whoever reads it."""


class Slot:
    """One image at a time: its file in the first 20 MiB, its RGB pixels behind. Pages are used as they are touched."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SLOT_BYTES)
        self._used_bytes = 0

    @classmethod
    def create(cls) -> Slot:
        """Memory without a name, which vanishes with its last user, however that ends."""
        descriptor = os.memfd_create("gmvaluator-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, SLOT_BYTES)
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL_SIZE)
        return cls(descriptor)

    def put_file(self, data: bytes) -> None:
        self._used_bytes = len(data)
        self._memory[: len(data)] = data

    def file(self, length: int) -> bytes:
        return self._memory[:length]

    def put_pixels(self, image: Image.Image) -> None:
        pixels = image.tobytes()
        self._memory[MAX_IMAGE_BYTES : MAX_IMAGE_BYTES + len(pixels)] = pixels

    def image(self, width: int, height: int) -> Image.Image:
        """A copy of the pixels, as an image."""
        size = CHANNELS * width * height
        self._used_bytes += size
        with memoryview(self._memory) as whole, whole[MAX_IMAGE_BYTES : MAX_IMAGE_BYTES + size] as pixels:
            return Image.frombytes("RGB", (width, height), pixels)

    def give_back(self) -> None:
        """Return the pages of a large file or image to the system."""
        if self._used_bytes > KEPT_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


START_S = 60.0
MAX_MESSAGE_BYTES = 1_000


class DecoderLost(Failure):
    """The process died over an image, or did not end it in time: it cannot be used any more."""


class DecoderLate(DecoderLost):
    """The process did not end an image in time."""


class DecoderProcess:
    """One process, which decodes one image at a time; one thread at a time calls `decode`."""

    def __init__(self) -> None:
        """Start it and wait until it is ready. Raises DecoderLost."""
        self._slot = Slot.create()
        self._socket, theirs = socket.socketpair()
        descriptors = theirs.fileno(), self._slot.descriptor
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "attributor.workers.decoder_child", *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env=own_environment(),
        )
        theirs.close()
        try:
            self._received(1, time.monotonic() + START_S)
        except DecoderLost:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """For those who watch it, or end it in a test."""
        return self._process.pid

    def decode(self, data: bytes, timeout_s: float) -> Image.Image:
        """As `images.decode_image`. Raises InvalidImage, ImageTooLarge, or DecoderLost: then only `close` is left."""
        deadline = time.monotonic() + timeout_s
        self._slot.put_file(data)
        try:
            width, height = self._decoded_size(len(data), deadline)
            return self._slot.image(width, height)
        finally:
            self._slot.give_back()

    def _decoded_size(self, length: int, deadline: float) -> tuple[int, int]:
        try:
            self._socket.sendall(REQUEST.pack(length))
        except OSError as error:
            raise self._lost() from error
        outcome, width, height, size = REPLY.unpack(self._received(REPLY.size, deadline))
        message = self._received(min(size, MAX_MESSAGE_BYTES), deadline).decode("utf-8", "replace")
        if outcome == TOO_LARGE:
            raise ImageTooLarge(message)
        if outcome == REFUSED:
            raise InvalidImage(message)
        if outcome != DECODED or not 0 < width * height <= MAX_IMAGE_PIXELS:
            raise DecoderLost("the decoder answered nonsense")
        return width, height

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._slot.close()

    def _received(self, count: int, deadline: float) -> bytes:
        found = b""
        while len(found) < count:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                part = self._socket.recv(count - len(found))
            except TimeoutError as error:
                raise DecoderLate("decoding it did not end in time") from error
            except OSError as error:
                raise self._lost() from error
            if not part:
                raise self._lost()
            found += part
        return found

    def _lost(self) -> DecoderLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return DecoderLost(f"the decoder's process ended (exit code {self._process.returncode})")
