"""Generated images from outside: header checks, decoding with limits, and thumbnails.

JPEG, PNG and WebP are accepted, recognised by content. The decoded image is upright RGB on white. The header is checked
before anything is decoded, so that a decompression bomb is refused where it arrives: that reads a few bytes of each
chunk and allocates nothing. Pillow decodes whatever passes, and may still refuse it.

`gmvaluator.training_images` decodes the larger files, and the further formats, that the indexer reads.
"""

from __future__ import annotations

import io
import math
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.image_headers import MAX_TEXT_BYTES, NO_IMAGE, Header, check_chunks, check_segments, read_header
from gmvaluator.image_pixels import upright_rgb

MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Limit of a generated image's file, bytes."""

MAX_IMAGE_PIXELS = 25_000_000
"""Limit of a generated image, pixels."""

MAX_SIDE_RATIO = 200
"""Limit of the longer side divided by the shorter; beyond it a resize to the model's input leaves nothing visible."""

FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats of generated images, by Pillow's names."""

THUMBNAIL_PX = 256
"""Longest side of a thumbnail, pixels."""

LARGEST_PIXELS = 1_000_000_000
"""Pixels that Pillow opens at most, a guard behind the limits of generated and training images."""

Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = False
PngImagePlugin.MAX_TEXT_CHUNK = 1024 * 1024
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
# Once for the process: filters set around each call are not safe between threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# What Pillow says of damaged tags, which it skips.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


def decode_image(data: bytes) -> Image.Image:
    """Decode a file with one still image to upright RGB, transparency on white.

    Raises ImageTooLarge over 20 MiB or 25,000,000 pixels (before any pixel is decoded), InvalidImage if the
    bytes are empty, truncated, of another format, animated or extremely narrow.
    """
    if check_image(data).format == "JPEG":
        check_segments(data)
    with pillow_errors(NO_IMAGE), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(*image.size)
        _check_frames(image)
        return upright_rgb(image, data)


def check_image(data: bytes, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS) -> Header:
    """Return the header after the checks that need no decoding: format, bytes, pixels, sides and chunks.

    Allocates nothing and takes a few milliseconds at most. Raises ImageTooLarge or InvalidImage.
    """
    check_bytes(data, max_bytes)
    header = read_header(data)
    check_size(header.width, header.height, max_pixels)
    check_chunks(data)
    return header


def check_bytes(data: bytes, max_bytes: int = MAX_IMAGE_BYTES) -> None:
    """Raise InvalidImage for an empty file, ImageTooLarge for one over `max_bytes`."""
    if not data:
        raise InvalidImage("the image is empty: send the bytes of a JPEG, PNG or WebP file")
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data):,} bytes; the limit is {max_bytes:,}: send a smaller one")


def check_size(width: int, height: int, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Raise ImageTooLarge over `max_pixels`, InvalidImage for an image without pixels or too narrow to be seen."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}: "
            "scale it down and send it again"
        )
    if min(width, height) < 1 or max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise InvalidImage(f"the image is {width} x {height}: its sides may differ by a factor of {MAX_SIDE_RATIO}")


def thumbnail(image: Image.Image) -> bytes:
    """Return a WebP of at most 256 x 256 pixels with the same aspect ratio, as far as `check_size` accepts that."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    longer, shorter = max(small.size), min(small.size)
    if longer > MAX_SIDE_RATIO * shorter:
        # A single row of pixels is what is left of the narrowest images.
        least = math.ceil(longer / MAX_SIDE_RATIO)
        small = image.resize((max(small.width, least), max(small.height, least)), Image.Resampling.LANCZOS)
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
def pillow_errors(no_image: str) -> Iterator[None]:
    """Translate Pillow's exceptions; no other place does. no_image: what is raised for bytes of no known format."""
    try:
        yield
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage(no_image) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image has over {LARGEST_PIXELS:,} pixels: scale it down") from error
    except MemoryError as error:
        raise ImageTooLarge("the image does not fit into memory: send a smaller one") from error
    except Exception as error:
        # Pillow's format plugins raise many types on damaged files, and no list of them stays complete.
        reason = str(error) or type(error).__name__
        raise InvalidImage(f"the image cannot be decoded, it may be truncated or damaged: {reason}"[:300]) from error


def _check_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames != 1 and image.format != "MPO":
        # A phone's JPEG may carry a second picture (MPO): the first is the image.
        raise InvalidImage(f"the image has {frames} frames: send one still image")
