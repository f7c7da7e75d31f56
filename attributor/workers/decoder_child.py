"""The decoder's process: decodes one image after another until its parent closes the socket.

Started by `attributor.workers.decoder_process`; it limits its own memory, so that a crash or an image that needs too
much affects nothing else. It holds no secret and writes no file. Its parent reads numbers, pixels and a message from
it, and parses none of them. Nor can it open a socket, start a program or read a file that is not Python's own.
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
from attributor.workers.confinement import confine
from attributor.workers.decoder_process import DECODED, REFUSED, REPLY, REQUEST, TOO_LARGE, Slot
from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.images import decode_image

MEMORY_BYTES = 1024 * 1024 * 1024
"""Memory above what the interpreter takes; the largest image that is accepted needs less than half of it."""

LARGE_BYTES = 64 * 1024
"""Size of a file from which memory is returned after it; smaller files hold no very large images."""


def main() -> None:
    """Run `... decoder_child SOCKET MEMORY`; both are file descriptors."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Both signals go to the whole process group: calls in flight need this process, which ends with its parent.
        signal.signal(number, signal.SIG_IGN)
    parent = socket.socket(fileno=int(sys.argv[1]))
    slot = Slot(int(sys.argv[2]))
    # Before limits and confinement, since format plugins are modules with libraries of their own; preinit() lacks WebP.
    Image.init()
    limit_resources()
    parent.sendall(bytes([confine()]))
    while request := parent.recv(REQUEST.size, socket.MSG_WAITALL):
        parent.sendall(_reply(slot, *REQUEST.unpack(request)))


def limit_resources() -> None:
    """Limit memory to `MEMORY_BYTES`, and forbid files and core dumps, from now on."""
    limit_memory()
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))


def limit_memory() -> None:
    """Limit memory to `MEMORY_BYTES` more than the process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _reply(slot: Slot, length: int) -> bytes:
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
