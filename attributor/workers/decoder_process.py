"""The parent's side of a decoder's process: files go in and pixels come out through shared memory.

Replies are fixed-size numbers and a message, so the parent parses nothing that a hostile image could have shaped.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from gmvaluator.environment import interpreter_environment
from gmvaluator.errors import Failure, ImageTooLarge, InvalidImage
from gmvaluator.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

CHANNELS = 3
SLOT_BYTES = MAX_IMAGE_BYTES + CHANNELS * MAX_IMAGE_PIXELS
KEPT_BYTES = 4 * 1024 * 1024
"""Memory that a slot keeps between images; after a larger one its pages are returned."""

START_TIMEOUT_S = 60.0
"""Time for a process to start."""

MAX_MESSAGE_BYTES = 1_000
"""Maximum number of bytes of an error message that are read from the process."""

REQUEST = struct.Struct("<I")
"""A request to the decoder: length of the file, in bytes."""

REPLY = struct.Struct("<BIIH")
"""Header of a reply: outcome, width and height in pixels, and length of the error message that follows, in bytes."""

DECODED, REFUSED, TOO_LARGE = range(3)
"""Outcomes in a reply."""

_ADD_SEALS = 1033
"""F_ADD_SEALS; `fcntl` has the name only where Python was built with recent kernel headers."""

_SEAL_SIZE = 0x0001 | 0x0002 | 0x0004
"""F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW: reading a slot that was shrunk would kill the reader by SIGBUS."""


class Slot:
    """Shared memory for one image at a time: its file in the first 20 MiB, then its RGB pixels.

    The size is virtual: the kernel allocates pages as they are written.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SLOT_BYTES)
        self._used_bytes = 0

    @classmethod
    def create(cls) -> Slot:
        """Allocate memory without a name, so that the kernel frees it with its last user, after a crash too."""
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
        """Copy the pixels into an image."""
        size = CHANNELS * width * height
        self._used_bytes += size
        with memoryview(self._memory) as whole, whole[MAX_IMAGE_BYTES : MAX_IMAGE_BYTES + size] as pixels:
            return Image.frombytes("RGB", (width, height), pixels)

    def give_back(self) -> None:
        """Return the pages of a large file or image to the kernel."""
        if self._used_bytes > KEPT_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


_BY_IMAGE = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS})
"""Signals that decoding an image may cause. SIGKILL is the kernel's, short of memory, or a person's; SIGBUS comes when
no page of shared memory is left."""


class DecoderLost(Failure):
    """The process died over an image, or did not decode it in time: it can no longer be used.

    by_image: False if the machine or a person ended or stopped it, which says nothing about the image.
    """

    def __init__(self, message: str, by_image: bool = True) -> None:
        super().__init__(message)
        self.by_image = by_image


class DecoderLate(DecoderLost):
    """The process did not decode an image in time."""


class DecoderProcess:
    """A process that decodes one image at a time; one thread at a time calls `decode`."""

    def __init__(self) -> None:
        """Start the process and wait until it is ready. Raises DecoderLost, or OSError if it cannot be started."""
        self._slot = Slot.create()
        self._socket, theirs = socket.socketpair()
        descriptors = theirs.fileno(), self._slot.descriptor
        # A new interpreter and not a fork, which would copy locks that other threads hold. -P: nothing is imported from
        # the working directory. The environment has no secrets, since the child parses hostile files.
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-m", "attributor.workers.decoder_child", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=interpreter_environment(),
            )
        except BaseException:
            # Each image tries to start the process again, so what is left open would add up.
            self._socket.close()
            self._slot.close()
            raise
        finally:
            theirs.close()
        try:
            self.confinement = self._receive(1, time.monotonic() + START_TIMEOUT_S)[0]
        except DecoderLost:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """Id of the process, for monitoring and for tests that kill it."""
        return self._process.pid

    def decode(self, data: bytes, timeout_s: float) -> Image.Image:
        """Decode as `images.decode_image` does.

        Raises InvalidImage, ImageTooLarge, or DecoderLost: then only `close` works.
        """
        deadline = time.monotonic() + timeout_s
        used_before_s = self._processor_time_s()
        self._slot.put_file(data)
        try:
            width, height = self._decoded_size(len(data), deadline)
            return self._slot.image(width, height)
        except DecoderLate as error:
            # A process that was stopped, or had to wait for processors or memory, says nothing about the image.
            error.by_image = self._processor_time_s() - used_before_s > timeout_s / 2
            raise
        finally:
            self._slot.give_back()

    def _decoded_size(self, length: int, deadline: float) -> tuple[int, int]:
        try:
            self._socket.sendall(REQUEST.pack(length))
        except OSError as error:
            raise self._lost() from error
        outcome, width, height, size = REPLY.unpack(self._receive(REPLY.size, deadline))
        message = self._receive(min(size, MAX_MESSAGE_BYTES), deadline).decode("utf-8", "replace")
        if outcome == TOO_LARGE:
            raise ImageTooLarge(message)
        if outcome == REFUSED:
            raise InvalidImage(message)
        if outcome != DECODED or not 0 < width * height <= MAX_IMAGE_PIXELS:
            raise DecoderLost("the decoder answered nonsense")
        return width, height

    def close(self) -> None:
        """Kill the process, also in the middle of an image."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._slot.close()

    def _receive(self, count: int, deadline: float) -> bytes:
        received = b""
        while len(received) < count:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                part = self._socket.recv(count - len(received))
            except TimeoutError as error:
                raise DecoderLate("decoding it did not end in time") from error
            except OSError as error:
                raise self._lost() from error
            if not part:
                raise self._lost()
            received += part
        return received

    def _lost(self) -> DecoderLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.returncode
        # A positive code is an exception of Python's; 0 is what closing our own end causes.
        by_image = code is not None and (code > 0 or -code in _BY_IMAGE)
        return DecoderLost(f"the decoder's process ended (exit code {code})", by_image)

    def _processor_time_s(self) -> float:
        """Return the processor time that the process has used, in seconds; 0 if it is gone."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
