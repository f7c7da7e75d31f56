"""The outer structure of JPEG, PNG and WebP files: header, chunks or segments, and end.

Everything here reads a few bytes of each chunk and allocates nothing, so that a decompression bomb, a file that was cut
short, or one that is built to be slow is refused before any pixel is decoded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from gmvaluator.errors import InvalidImage

MAX_CHUNKS = 20_000
"""Limit of chunks of a PNG or WebP, or of segments of a JPEG; a 20 MiB PNG in pieces of 4 KiB has 5,000."""

MAX_SCANS = 100
"""Limit of scans of a progressive JPEG, each of which passes over all pixels; encoders write about ten."""

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Limit of the stored bytes of all text chunks of a PNG; Pillow has the same limit on the unpacked text."""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TEXT_OVERHEAD = 1_000
"""Bytes of a text chunk that are not counted: its key, and what compressing noise adds."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
NO_IMAGE = "the bytes are no JPEG, PNG or WebP image: convert the file and send it again"
CUT_SHORT = "the image cannot be decoded: the {} was cut short, its end is missing: send the whole file"

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by a PNG's colour type."""

_PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced PNG, and the steps to the next."""

_PIECE_BYTES, _INFLATED_BYTES = 64 * 1024, 1024 * 1024

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A JPEG marker: not the stuffed zero or the restart markers that occur within coded pixels, nor a fill byte."""


class Header(NamedTuple):
    """Format, width and height from a file's header, before the EXIF rotation."""

    format: str
    width: int
    height: int


def is_readable(data: bytes) -> bool:
    """Return whether the bytes begin as a JPEG, PNG or WebP does."""
    return data.startswith((_PNG, _JPEG)) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def read_header(data: bytes) -> Header:
    """Parse the header of a JPEG, PNG or WebP. Raises InvalidImage for anything else."""
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(_JPEG):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise InvalidImage("the image cannot be decoded: it is truncated within its header") from error
    raise InvalidImage(NO_IMAGE)


def check_chunks(data: bytes) -> None:
    """Check the chunks of a PNG or WebP up to the image's end, behind which anything may follow.

    Takes a few milliseconds at most. Raises InvalidImage for a PNG without its end, or a file built to be slow.
    """
    if data.startswith(_PNG):
        _check_png(data)
    elif data[:4] == b"RIFF":
        _check_webp(data)


def check_segments(data: bytes) -> int:
    """Check the segments and scans of a JPEG up to the image's end, behind which anything may follow.

    Returns where the marker of the end is. Reads every byte of the coded pixels. Raises InvalidImage for a JPEG without
    its end, or one built to be slow.
    """
    # Pillow decodes a JPEG that was cut short and padded, and paints what is missing grey.
    position, scans = 2, 0
    for _ in range(MAX_CHUNKS):
        match = _MARKER.search(data, position)
        if match is None or (marker := data[match.end() - 1]) == _SOI:
            raise InvalidImage(CUT_SHORT.format("JPEG"))
        if marker == _EOI:
            return match.start()
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise InvalidImage(f"the JPEG has over {MAX_SCANS} scans: write it again with any image program")
        position = match.end() + (_segment_bytes(data, match.end()) if marker >= 0xC0 else 0)
    raise InvalidImage(f"the JPEG has over {MAX_CHUNKS:,} segments: write it again with any image program")


def check_png_rows(data: bytes) -> None:
    """Raise InvalidImage if the compressed pixels of a PNG end before its last row; Pillow paints the rest black.

    Inflates the pixels, so it takes as long as decoding. Memory: a MiB.
    """
    missing = _png_pixel_bytes(data)
    inflater = zlib.decompressobj()
    for piece in _png_pixel_pieces(data):
        while piece and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(piece, _INFLATED_BYTES))
            piece = inflater.unconsumed_tail
        if missing <= 0:
            return
    # What zlib still holds is shorter than its window.
    if missing > len(inflater.flush()):
        raise InvalidImage(CUT_SHORT.format("PNG"))


def _png_pixel_pieces(data: bytes) -> Iterator[bytes]:
    """Yield the compressed pixels of a PNG in small pieces, as zlib copies what it has not consumed yet."""
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            for start in range(position + 8, position + 8 + length, _PIECE_BYTES):
                yield data[start : min(start + _PIECE_BYTES, position + 8 + length)]
        position += 12 + length


def _png_pixel_bytes(data: bytes) -> int:
    """Return the bytes that the rows of a PNG have before compression, with a filter byte each."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _PNG_CHANNELS.get(colour, 1)
    passes = _PNG_PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-((left - width) // across), -((top - height) // down)) for left, top, across, down in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _segment_bytes(data: bytes, position: int) -> int:
    """Return the length of the segment whose length field is at `position`."""
    length: int
    try:
        (length,) = struct.unpack_from(">H", data, position)
    except struct.error as error:
        raise InvalidImage(CUT_SHORT.format("JPEG")) from error
    return max(length, 2)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise InvalidImage("the image cannot be decoded: a PNG begins with its IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    return Header("PNG", width, height)


def _check_png(data: bytes) -> None:
    # The decoder copies texts before Pillow checks its own limit.
    position, text_bytes = len(_PNG), 0
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            raise InvalidImage(CUT_SHORT.format("PNG"))
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return
        if not kind.isalpha():
            raise InvalidImage("the image cannot be decoded: its PNG chunks are damaged, or it was cut short")
        text_bytes += max(length - _TEXT_OVERHEAD, 0) if kind in _TEXTS else 0
        if text_bytes > MAX_TEXT_BYTES:
            raise InvalidImage(f"the PNG holds over {MAX_TEXT_BYTES:,} bytes of text: write it again without")
        position += 12 + length
    raise _too_many_chunks()


def _webp(data: bytes) -> Header:
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[start : start + 3], "little") for start in (4, 7))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise InvalidImage(NO_IMAGE)
    return Header("WEBP", width, height)


def _check_webp(data: bytes) -> None:
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    position, end = 12, min(8 + riff_bytes, len(data))
    for _ in range(MAX_CHUNKS):
        if position + 8 > end:
            return
        (length,) = struct.unpack_from("<4xI", data, position)
        position += 8 + length + (length & 1)
    raise _too_many_chunks()


def _too_many_chunks() -> InvalidImage:
    return InvalidImage(f"the image has over {MAX_CHUNKS:,} chunks: write it again with any image program")


def _jpeg(data: bytes) -> Header:
    position = 2
    for _ in range(MAX_CHUNKS):
        if data[position] != 0xFF:
            raise InvalidImage("the image cannot be decoded: its JPEG segments are damaged")
        marker = data[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= _SOI:
            position += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Header("JPEG", width, height)
        if marker in (_EOI, _SOS):
            raise InvalidImage("the image cannot be decoded: its JPEG has no frame header")
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + max(length, 2)
    raise InvalidImage(f"the JPEG has over {MAX_CHUNKS:,} segments: write it again with any image program")
