"""Training images: more formats and larger files than a generated image may have, and the first of several frames.

JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF and JPEG 2000 are read, recognised by content. An image of more than 25,000,000
pixels is reduced by a whole number while it is decoded: models look at far fewer. One such image is decoded at a time,
which takes up to 1.5 GB.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from PIL import Image

from gmvaluator.errors import InvalidImage
from gmvaluator.image_headers import check_segments, is_readable
from gmvaluator.image_pixels import upright_rgb, upright_size
from gmvaluator.images import MAX_IMAGE_PIXELS, check_bytes, check_image, check_size, pillow_errors

MAX_BYTES = 512 * 1024 * 1024
"""Limit of a training image's file, bytes: 60 megapixels of 16 bits a channel take 360 MB."""

MAX_PIXELS = 200_000_000
"""Default limit of a training image, pixels."""

LIMIT_OF_PIXELS = 1_000_000_000
"""Greatest limit that may be set."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000")
"""Formats of training images, by Pillow's names."""

ENDINGS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "avif", "jp2", "j2k")
"""Usual endings of files of these formats."""

COSTLY_FORMATS = ("WEBP", "AVIF", "JPEG2000")
COSTLY_SHARE = 4
"""Formats whose decoders take up to 16 bytes a pixel; the limit of pixels is divided by this for them."""

_NO_IMAGE = (
    "the bytes are no image of a format that is read (AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, TIFF, WebP): convert the "
    "file"
)
_OTHERS = {
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC",
    b"mif1": "HEIF", b"msf1": "HEIF", b"crx ": "a camera's raw file",
}  # fmt: skip
"""Brands of files that resemble AVIF, which Pillow does not read."""

_DNG_VERSION, _SUBFILE_TYPE, _REDUCED = 50706, 254, 1
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_END_OF_CODESTREAM = b"\xff\xd9"
_MAX_COMPONENTS = 5

_large_images = threading.Lock()
"""Held while an image is decoded that has to be reduced, so that two threads do not need its memory twice."""


@dataclass(frozen=True, slots=True)
class TrainingLimits:
    """Bounds of the training images of one run. pixels: up to `LIMIT_OF_PIXELS`. size_bytes: up to `MAX_BYTES`."""

    pixels: int = MAX_PIXELS
    size_bytes: int = MAX_BYTES

    def pixels_of(self, file_format: str | None) -> int:
        """Return the limit of pixels for a format."""
        return self.pixels // COSTLY_SHARE if file_format in COSTLY_FORMATS else self.pixels


DEFAULT_LIMITS = TrainingLimits()


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """A decoded training image.

    pixels: upright RGB on white, at most 25,000,000 pixels. width, height: of the upright original. first_of_several:
    whether the file has more frames or pages, of which this is the first.
    """

    pixels: Image.Image
    width: int
    height: int
    first_of_several: bool = False


def decode_training_image(data: bytes, limits: TrainingLimits = DEFAULT_LIMITS) -> TrainingImage:
    """Decode a file, its first frame if it has several.

    Raises ImageTooLarge over the limits, InvalidImage if the bytes are empty, truncated, of another format, extremely
    narrow, a camera's raw file, or of pixels that define no white.
    """
    check_bytes(data, limits.size_bytes)
    _check_structure(data, limits)
    with _opened(data, limits) as image, _alone_if_large(image):
        width, height = upright_size(image)
        return TrainingImage(_pixels(image, data), width, height, _has_more(image))


def training_image_size(data: bytes, limits: TrainingLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return width and height of the upright image from its header. Raises ImageTooLarge or InvalidImage."""
    with _opened(data, limits) as image, _alone_if_large(image):
        return upright_size(image)


@contextmanager
def _opened(data: bytes, limits: TrainingLimits) -> Iterator[Image.Image]:
    with pillow_errors(_reason(data)), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_opened(image, limits)
        yield image


def _alone_if_large(image: Image.Image) -> AbstractContextManager[object]:
    """Return a lock under which an image that has to be reduced is decoded."""
    return _large_images if _factor(image) > 1 else nullcontext()


def _check_structure(data: bytes, limits: TrainingLimits) -> None:
    """Refuse what was cut short and what is built to be slow, where Pillow would not."""
    if is_readable(data):
        header = check_image(data, limits.size_bytes, limits.pixels)
        if header.format == "JPEG":
            check_segments(data)
    elif data.startswith((_JP2, _CODESTREAM)):
        _check_codestream(data)
    elif data[:2] in (b"II", b"MM") and data[8:10] == b"CR":
        raise InvalidImage(_raw_file())


def _check_codestream(data: bytes) -> None:
    """Check a JPEG 2000's number of components and its end, which its decoder takes for granted."""
    start = data.find(_CODESTREAM)
    components = int.from_bytes(data[start + 40 : start + 42])
    if start < 0 or not 1 <= components <= _MAX_COMPONENTS:
        raise InvalidImage(f"the JPEG 2000 has {components} components: save it as RGB")
    if data.find(_END_OF_CODESTREAM, start) < 0:
        raise InvalidImage("the image cannot be decoded: the JPEG 2000 was cut short, its end is missing")


def _check_opened(image: Image.Image, limits: TrainingLimits) -> None:
    check_size(*image.size, limits.pixels_of(image.format))
    tags = getattr(image, "tag_v2", {})
    if _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE, 0) & _REDUCED:
        raise InvalidImage(_raw_file())


def _pixels(image: Image.Image, data: bytes) -> Image.Image:
    factor = _factor(image)
    if factor > 1:
        # A JPEG's decoder itself can leave out details, down to an eighth of each side.
        image.draft(None, (image.width // factor, image.height // factor))
    return upright_rgb(image, data, _factor(image))


def _factor(image: Image.Image) -> int:
    """Return by what the sides are divided, so that at most 25,000,000 pixels are left."""
    factor = math.ceil(math.sqrt(image.width * image.height / MAX_IMAGE_PIXELS))
    while math.ceil(image.width / factor) * math.ceil(image.height / factor) > MAX_IMAGE_PIXELS:
        factor += 1
    return factor


def _has_more(image: Image.Image) -> bool:
    # A phone's JPEG may carry a second picture (MPO), which is no further frame.
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _reason(data: bytes) -> str:
    """Return why bytes that Pillow does not recognise are refused."""
    kind = _OTHERS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    return f"the file is {kind}, which is not read: convert it to JPEG, PNG or TIFF" if kind else _NO_IMAGE


def _raw_file() -> str:
    return "the file is a camera's raw file, or begins with a preview: export the picture as JPEG, PNG or TIFF"
