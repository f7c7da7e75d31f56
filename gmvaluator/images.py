"""Images from outside: header checks, decoding with limits, and thumbnails.

JPEG, PNG and WebP are accepted, recognised by content. The decoded image is upright RGB on white. The header is checked
before anything is decoded, so that a decompression bomb is refused where it arrives: that reads a few bytes of each
chunk and allocates nothing. Pillow decodes whatever passes, and may still refuse it.
"""

from __future__ import annotations

import io
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.image_headers import MAX_TEXT_BYTES, Header, check_chunks, check_segments, read_header

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
    if check_image(data).format == "JPEG":
        check_segments(data)
    with _translated(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        _check_frames(image)
        image.load()
        return _upright_rgb(image)


def check_image(data: bytes) -> Header:
    """Return the header after the checks that need no decoding: format, bytes, pixels, sides and chunks.

    Allocates nothing and takes a few milliseconds at most. Raises ImageTooLarge or InvalidImage.
    """
    if not data:
        raise InvalidImage("the image is empty: send the bytes of a JPEG, PNG or WebP file")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: send a smaller one")
    header = read_header(data)
    _check_size(header.width, header.height)
    check_chunks(data)
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
