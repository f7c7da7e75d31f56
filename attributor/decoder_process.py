"""The parent's side of one decoder's process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time

from PIL import Image

from attributor.decoder_slot import DECODED, REFUSED, REPLY, REQUEST, TOO_LARGE, Slot
from gmvaluator.errors import Failure, ImageTooLarge, InvalidImage
from gmvaluator.images import MAX_IMAGE_PIXELS
from gmvaluator.processes import own_environment

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
            [sys.executable, "-P", "-m", "attributor.decoder_child", *map(str, descriptors)],
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
