"""Images from outside: header checks, decoding with limits, and thumbnails.

JPEG, PNG and WebP are accepted, recognised by content. The decoded image is upright RGB on white. The header is checked
before anything is decoded, so that a decompression bomb is refused where it arrives: that reads a few bytes of each
chunk and allocates nothing. Pillow decodes whatever passes, and may still refuse it.
"""

from __future__ import annotations

import io
import struct
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from gmvaluator.errors import ImageTooLarge, InvalidImage

MAX_CHUNKS = 20_000
"""Limit of chunks of a PNG or WebP, or of segments of a JPEG; a 20 MiB PNG in pieces of 4 KiB has 5,000."""

MAX_SCANS = 100
"""Limit of scans of a progressive JPEG, each of which passes over all pixels; encoders write about ten."""

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Limit of the stored bytes of all text chunks of a PNG; Pillow has the same limit on the unpacked text."""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TEXT_OVERHEAD = 1_000
"""Bytes of a text chunk that are not counted: its key, and what compressing noise adds."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NO_IMAGE = "the bytes are no JPEG, PNG or WebP image: convert the file and send it again"


class Header(NamedTuple):
    """Format, width and height from a file's header, before the EXIF rotation."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Parse the header of a JPEG, PNG or WebP. Raises InvalidImage for anything else, or a file built to be slow."""
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
    _check_chunk_count(data, len(_PNG), ">I", 12)
    _check_text_size(data)
    return Header("PNG", width, height)


def _check_text_size(data: bytes) -> None:
    """Raise InvalidImage if the text chunks before IEND exceed `MAX_TEXT_BYTES`."""
    # The decoder copies them before Pillow checks its own limit.
    position, text_bytes = len(_PNG), 0
    while position + 12 <= len(data) and (kind := data[position + 4 : position + 8]) != b"IEND":
        (length,) = struct.unpack_from(">I", data, position)
        text_bytes += max(length - _TEXT_OVERHEAD, 0) if kind in _TEXTS else 0
        position += 12 + length
    if text_bytes > MAX_TEXT_BYTES:
        raise InvalidImage(f"the PNG holds over {MAX_TEXT_BYTES:,} bytes of text: write it again without")


def _webp(data: bytes) -> Header:
    _check_chunk_count(data, 12, "<4xI", 8, even=True)
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


def _check_chunk_count(data: bytes, position: int, length_format: str, overhead: int, even: bool = False) -> None:
    """Raise InvalidImage if the file has more than MAX_CHUNKS chunks, each of which costs the decoder time."""
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


MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Limit of an image file, bytes."""

MAX_IMAGE_PIXELS = 25_000_000
"""Limit of an image, pixels."""

MAX_SIDE_RATIO = 200
"""Limit of the longer side divided by the shorter; beyond it a resize to the model's input leaves nothing visible."""

FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats that are decoded, by Pillow's names."""

THUMBNAIL_PX = 256
"""Longest side of a thumbnail, pixels."""

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = False
PngImagePlugin.MAX_TEXT_CHUNK = 1024 * 1024
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
# Once for the process: filters set around each call are not safe between threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode_image(data: bytes) -> Image.Image:
    """Decode a file with one still image to upright RGB, transparency on white.

    Raises ImageTooLarge over 20 MiB or 25,000,000 pixels (before any pixel is decoded), InvalidImage if the
    bytes are empty, truncated, of another format, animated or extremely narrow.
    """
    check_image(data)
    with _translated(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        _check_frames(image)
        image.load()
        return _upright_rgb(image)


def check_image(data: bytes) -> Header:
    """Return the header after the checks that need no decoding: format, bytes, pixels, sides and chunks.

    Allocates nothing and takes a millisecond at most. Raises ImageTooLarge or InvalidImage.
    """
    if not data:
        raise InvalidImage("the image is empty: send the bytes of a JPEG, PNG or WebP file")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: send a smaller one")
    header = read_header(data)
    _check_size(header.width, header.height)
    return header


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the upright image, without decoding pixels. Raises ImageTooLarge or InvalidImage."""
    with _translated(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
        return (height, width) if turned else (width, height)


def thumbnail(image: Image.Image) -> bytes:
    """Return a WebP of at most 256 x 256 pixels with the same aspect ratio."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()


def thumbnail_path(folder: Path, name: uuid.UUID) -> Path:
    """Return the path of a training image's thumbnail below `folder`."""
    return folder / str(name)[:2] / f"{name}.webp"


def generated_path(folder: Path, sha256: str) -> Path:
    """Return the path of a generated image's thumbnail below `folder`; sha256: of the file that was sent."""
    return folder / sha256[:2] / f"{sha256}.webp"


@contextmanager
def _translated() -> Iterator[None]:
    """Translate Pillow's exceptions; no other place does."""
    try:
        yield
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage("the bytes are no JPEG, PNG or WebP image: convert the file and send it again") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(_pixels_message("more")) from error
    except MemoryError as error:
        raise ImageTooLarge("the image does not fit into memory: send a smaller one") from error
    except Exception as error:
        # Pillow's format plugins raise many types on damaged files, and no list of them stays complete.
        raise InvalidImage(f"the image cannot be decoded, it may be truncated or damaged: {error}"[:300]) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageTooLarge(_pixels_message(f"{width} x {height} = {width * height:,}"))
    if min(width, height) < 1 or max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise InvalidImage(f"the image is {width} x {height}: its sides may differ by a factor of {MAX_SIDE_RATIO}")


def _check_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames != 1 and image.format != "MPO":
        # A phone's JPEG may carry a second picture (MPO): the first is the image.
        raise InvalidImage(f"the image has {frames} frames: send one still image")


def _pixels_message(pixels: str) -> str:
    return f"the image has {pixels} pixels; the limit is {MAX_IMAGE_PIXELS:,}: scale it down and send it again"


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = _upright(image)
    if upright.mode.startswith("I;16") or upright.mode == "I":
        upright = _sixteen_to_eight_bit(upright)
    if upright.mode == "RGB":
        return upright if upright is not image else upright.copy()
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises anything; EXIF that cannot be read does not say what is up
        return image


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    # Pillow clips 16-bit grey when it converts it: scale it.
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
