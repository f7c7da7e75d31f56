"""The decoder's process: one image after another, until its parent is gone.

Started by `attributor.workers.decoder_process` with bounds on its memory, so that a crash or an image that does not
fit affects nothing else.

It holds no secret and writes no file. Its parent reads nothing from it but numbers, pixels and a message.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from pathlib import Path

from PIL import Image

from attributor.ops.memory import give_back
from attributor.workers.decoder_process import DECODED, REFUSED, REPLY, REQUEST, TOO_LARGE, Slot
from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.images import decode_image

MEMORY_BYTES = 1024 * 1024 * 1024
"""Beyond what the interpreter takes: the largest image that is accepted needs less than half of it."""

LARGE_BYTES = 64 * 1024
"""Of a file, after which memory is given back: small files may hold large images, but not very large ones."""

READY = b"\x01"


def main() -> None:
    """`python -m attributor.workers.decoder_child SOCKET MEMORY`, two descriptors."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Both go to a whole group of processes: calls in flight still need us, and we end with our parent.
        signal.signal(number, signal.SIG_IGN)
    parent = socket.socket(fileno=int(sys.argv[1]))
    slot = Slot(int(sys.argv[2]))
    Image.preinit()
    bound_resources()
    parent.sendall(READY)
    while request := parent.recv(REQUEST.size, socket.MSG_WAITALL):
        parent.sendall(_answer(slot, *REQUEST.unpack(request)))


def bound_resources() -> None:
    """From now on: no more memory than `MEMORY_BYTES`, no file written, no core left."""
    bound_memory()
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))


def bound_memory() -> None:
    """From now on: no more memory than `MEMORY_BYTES` above what is taken already."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(slot: Slot, length: int) -> bytes:
    try:
        image = decode_image(slot.file(length))
        slot.put_pixels(image)
    except ImageTooLarge as error:
        return _refusal(TOO_LARGE, error)
    except InvalidImage as error:
        return _refusal(REFUSED, error)
    finally:
        if length > LARGE_BYTES:
            give_back()
    return REPLY.pack(DECODED, image.width, image.height, 0)


def _refusal(outcome: int, error: InvalidImage) -> bytes:
    message = str(error).encode("utf-8", "replace")[:1_000]
    return REPLY.pack(outcome, 0, 0, len(message)) + message


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
