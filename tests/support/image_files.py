"""Building blocks of valid and hostile image files."""

import io
import struct
import zlib
from collections.abc import Iterable

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, body: bytes | None = None, extra: bytes = b"", colour: int = 0, depth: int = 8
) -> bytes:
    """A PNG of any size; its pixels are `body`, inflated, or black grey."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = bytes(width + 1) * height if body is None else body
    return PNG + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND")


def riff(chunks: Iterable[tuple[bytes, bytes]], kind: bytes = b"WEBP") -> bytes:
    """A RIFF file of chunks."""
    body = kind + b"".join(
        name + struct.pack("<I", len(data)) + data + (b"\0" if len(data) % 2 else b"") for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(width: int, height: int, flags: int = 0) -> bytes:
    """The header chunk of an extended WebP."""
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def vp8l(width: int, height: int) -> bytes:
    """The beginning of a lossless WebP's pixels."""
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(32)


def segment(marker: int, body: bytes = b"") -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(jpeg: bytes, extra: bytes) -> bytes:
    """A JPEG with more segments at its beginning."""
    return jpeg[:2] + extra + jpeg[2:]


def jpeg_of_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = next(index for index in range(len(jpeg)) if jpeg[index] == 0xFF and jpeg[index + 1] in (0xC0, 0xC2))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]
