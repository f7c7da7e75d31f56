"""Memory shared with a decoder's process: the file goes in, pixels come out, and nothing is parsed on the way back."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from PIL import Image

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
