"""What a file says of its image before anything is decoded: cheap enough to refuse a bomb where it arrives.

Reads a few bytes of each chunk and allocates nothing. Whatever passes is decoded by Pillow, which may still refuse it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gmvaluator.errors import InvalidImage

MAX_CHUNKS = 20_000
"""Chunks of a PNG or WebP, segments of a JPEG: a 20 MiB PNG in pieces of 4 KiB has 5,000."""

MAX_SCANS = 100
"""Scans of a progressive JPEG, each of which passes over all pixels: encoders write about ten."""

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Of all text chunks of a PNG, as they are stored; Pillow refuses as much once it has unpacked it."""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TEXT_OVERHEAD = 1_000
"""Of a text chunk's bytes that may be its key, or what packing noise adds."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NO_IMAGE = "the bytes are no JPEG, PNG or WebP image: convert the file and send it again"


class Header(NamedTuple):
    """Format and size, as the file says, before rotation."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Raises InvalidImage if this is the beginning of no JPEG, PNG or WebP, or one made to be slow."""
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise InvalidImage("the image cannot be decoded: it is truncated within its header") from error
    raise InvalidImage(_NO_IMAGE)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise InvalidImage("the image cannot be decoded: a PNG begins with its IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    _check_pieces(data, len(_PNG), ">I", 12)
    _check_texts(data)
    return Header("PNG", width, height)


def _check_texts(data: bytes) -> None:
    """Raises InvalidImage if the text chunks before IEND are larger than is ever accepted; the decoder copies them."""
    position, texts = len(_PNG), 0
    while position + 12 <= len(data) and (kind := data[position + 4 : position + 8]) != b"IEND":
        (length,) = struct.unpack_from(">I", data, position)
        texts += max(length - _TEXT_OVERHEAD, 0) if kind in _TEXTS else 0
        position += 12 + length
    if texts > MAX_TEXT_BYTES:
        raise InvalidImage(f"the PNG holds over {MAX_TEXT_BYTES:,} bytes of text: write it again without")


def _webp(data: bytes) -> Header:
    _check_pieces(data, 12, "<4xI", 8, even=True)
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[start : start + 3], "little") for start in (4, 7))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise InvalidImage(_NO_IMAGE)
    return Header("WEBP", width, height)


def _check_pieces(data: bytes, position: int, length_format: str, overhead: int, even: bool = False) -> None:
    """Raises InvalidImage if the file is cut into more than MAX_CHUNKS; reading each costs the decoder time."""
    for _ in range(MAX_CHUNKS):
        if position + overhead > len(data):
            return
        (length,) = struct.unpack_from(length_format, data, position)
        position += overhead + length + (length & 1 if even else 0)
    raise InvalidImage(f"the image has over {MAX_CHUNKS:,} chunks: write it again with any image program")


def _jpeg(data: bytes) -> Header:
    # Within coded pixels FF is followed by 00 or a restart marker, so FFDA is a scan there, or a thumbnail's.
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise InvalidImage(f"the JPEG has over {MAX_SCANS} scans: write it again with any image program")
    position = 2
    for _ in range(MAX_CHUNKS):
        if data[position] != 0xFF:
            raise InvalidImage("the image cannot be decoded: its JPEG segments are damaged")
        marker = data[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Header("JPEG", width, height)
        if marker in (0xD9, 0xDA):
            raise InvalidImage("the image cannot be decoded: its JPEG has no frame header")
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + max(length, 2)
    raise InvalidImage(f"the JPEG has over {MAX_CHUNKS:,} segments: write it again with any image program")
