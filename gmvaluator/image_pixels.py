"""Pixels of an image: as upright RGB on white, whatever its file holds, and fitted into a square."""

from __future__ import annotations

import hashlib
import io
import math

from PIL import ExifTags, Image, ImageChops, ImageOps

from gmvaluator.errors import InvalidImage
from gmvaluator.image_headers import CUT_SHORT, check_png_rows, check_segments

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation: what makes the stored pixels upright."""

_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

_PNG_DEPTH, _PNG_COLOUR = 24, 25
"""Positions of the bit depth and of the colour type in a PNG."""

_GREY, _RGB = 0, 2
"""Colour types of a PNG whose transparency is one value that a tRNS chunk names."""

_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

_MISSING_GREYS = {127, 128}
"""Values of the missing pixels of a JPEG, by its colours."""

_JPEG_END = b"\xff\xd9"
_NOISE = hashlib.sha512(b"behind the coded pixels").digest().replace(b"\xff", b"")
_CODED_NOISE = _NOISE + b"".join(bytes((0xFF, 0xD0 + number)) + _NOISE for number in range(8))
"""Bytes that decode to something else than grey, also where a restart marker has to come first."""

_BAND_PIXELS = 4_000_000
"""Pixels of a large image that are converted at a time."""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where none can be read. May decode the image."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        number = int(value[0] if isinstance(value, (tuple, bytes)) else value)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow raises anything; EXIF that cannot be read does not say what is up
        return 1
    return number if number in _TRANSPOSITIONS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the upright image. May decode the image."""
    width, height = image.size
    # Pillow itself makes a TIFF upright, and states its upright size.
    sideways = image.format != "TIFF" and orientation(image) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def upright_rgb(image: Image.Image, data: bytes, factor: int = 1) -> Image.Image:
    """Load an opened image as upright RGB on white. data: the file that it was opened from.

    factor: what both sides are divided by, rounded up; over 1 the image is converted in bands, so that no second copy
    of it is in memory. Raises InvalidImage for pixels that have no defined white (floating point, 32-bit integers), and
    Pillow's errors.
    """
    image.load()
    if image.format == "PNG" and not any(image.crop((0, max(image.height - 2, 0), *image.size)).tobytes()):
        # Black, or missing: Pillow takes pixels that end early for whole.
        check_png_rows(data)
    if image.format == "JPEG" and _ends_grey(image):
        _check_jpeg_rows(data)
    pixels = _Pixels(image, data)
    flat = pixels.on_white((0, 0, *image.size)) if factor == 1 else _reduced(pixels, factor)
    transposition = _TRANSPOSITIONS.get(orientation(image))
    if transposition is not None:
        return flat.transpose(transposition)
    return flat.copy() if flat is image else flat


def fit_on_white(
    image: Image.Image, side_px: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Return a whole RGB image scaled to fit a white square, and centred in it."""
    scale = side_px / max(image.size)
    # A side of a very long image would round to nothing.
    width, height = (max(round(length * scale), 1) for length in image.size)
    square = Image.new("RGB", (side_px, side_px), "white")
    square.paste(image.resize((width, height), resample), ((side_px - width) // 2, (side_px - height) // 2))
    return square


def _ends_grey(image: Image.Image) -> bool:
    """Return whether the last pixel is of the grey that Pillow paints where the pixels of a JPEG are missing."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return set(last if isinstance(last, tuple) else (last,)) <= _MISSING_GREYS


def _check_jpeg_rows(data: bytes) -> None:
    """Raise InvalidImage if the coded pixels of a sequential JPEG end before its last row.

    Bytes put behind them change the picture only where pixels are missing. Both are decoded at an eighth of the size.
    """
    end = check_segments(data)
    before, after = (_eighth(data[:end] + behind + _JPEG_END) for behind in (b"", _CODED_NOISE))
    if ImageChops.difference(before, after).getbbox() is not None:
        raise InvalidImage(CUT_SHORT.format("JPEG"))


def _eighth(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return image.copy()


def _reduced(pixels: _Pixels, factor: int) -> Image.Image:
    width, height = pixels.image.size
    reduced = Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    rows = max(_BAND_PIXELS // width // factor, 1) * factor
    for top in range(0, height, rows):
        band = pixels.on_white((0, top, width, min(top + rows, height)))
        reduced.paste(band.reduce(factor), (0, top // factor))
    return reduced


class _Pixels:
    """The pixels of a loaded image, and the value that its file names as transparent.

    Pillow compares that value with pixels that it has scaled, or cut to 8 bits, so it is compared here.
    """

    def __init__(self, image: Image.Image, data: bytes) -> None:
        self.image = image
        self._values: list[int] | None = None
        self._low: Image.Image | None = None
        transparent = image.info.get("transparency")
        if image.format == "PNG" and transparent is not None and data[_PNG_COLOUR] in (_GREY, _RGB):
            values = transparent if isinstance(transparent, tuple) else (transparent,)
            self._values = _scaled(values, 255 if image.mode == "1" else 2 ** data[_PNG_DEPTH] - 1)
            if data[_PNG_DEPTH] == 16 and image.mode == "RGB":
                self._low = _lower_halves(data)

    def on_white(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Return a box of the image as RGB on white; it may be the image itself."""
        part = self.image if box == (0, 0, *self.image.size) else self.image.crop(box)
        if self._values is not None:
            white = Image.new("RGB", part.size, "white")
            white.paste(self._eight_bit(part).convert("RGB"), mask=_unlike(self._bands(part, box), self._values))
            return white
        part = self._eight_bit(part)
        if part.mode == "La":
            part = part.convert("LA")
        if part.has_transparency_data:
            layer = part.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return part if part.mode == "RGB" else part.convert("RGB")

    def _bands(self, part: Image.Image, box: tuple[int, int, int, int]) -> list[Image.Image]:
        """Return the 8-bit bands that are compared with the transparent value: for 16 bits, upper halves first."""
        if self._low is not None:
            return [*part.split(), *self._low.crop(box).split()]
        if part.mode == "I;16":
            pixels = part.tobytes()
            return [Image.frombytes("L", part.size, pixels[first::2]) for first in (1, 0)]
        return [part.convert("L")] if part.mode == "1" else list(part.split())

    def _eight_bit(self, part: Image.Image) -> Image.Image:
        """Scale 16-bit grey, which Pillow would clip. Raises InvalidImage for wider pixels."""
        if part.mode in ("I", "F"):
            kind = "floating point numbers" if part.mode == "F" else "signed or 32-bit integers"
            raise InvalidImage(
                f"the image's pixels are {kind}, which define no white: save it with 8 or 16 bits a channel"
            )
        if not part.mode.startswith("I;16"):
            return part
        tags = getattr(self.image, "tag_v2", {})
        white = 2 ** tags.get(_TIFF_BITS, (16,))[0] - 1
        grey = part.convert("I").point(lambda value: value * (255 / white)).convert("L")
        return ImageOps.invert(grey) if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def _scaled(values: tuple[int, ...], largest: int) -> list[int]:
    """Return the values as 8-bit bands have them; of 16 bits, the upper halves and then the lower ones."""
    if largest > 255:
        return [*(value >> 8 for value in values), *(value & 255 for value in values)]
    return [(value & largest) * 255 // largest for value in values]


def _unlike(bands: list[Image.Image], values: list[int]) -> Image.Image:
    """Return 255 where any of the 8-bit bands differs from its value, and 0 elsewhere."""
    mask = Image.new("L", bands[0].size, 0)
    for band, value in zip(bands, values, strict=True):
        mask = ImageChops.lighter(mask, band.point([0 if level == value else 255 for level in range(256)]))
    return mask


def _lower_halves(data: bytes) -> Image.Image:
    """Return the lower 8 bits of each channel of a 16-bit RGB PNG, of which Pillow keeps the upper ones."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        # Read as little-endian, the same pixels give the lower halves.
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
        return image.copy()
