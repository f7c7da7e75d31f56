"""Views of an image for profile `lite`: the whole, windows of it, and the weights that their vectors carry.

A training image has ten views, the whole and nine windows, because a generator may show a part of it alone. A
generated image has two, the whole and a blurred copy (`lite_network.blur`), because its texture may differ from its
source's.

Two images are as near as their nearest views, and a view that is not the whole image counts for a little less: its
embedding v becomes (w v, sqrt(1 - w²)), the last number in a dimension of its own in which the other side has 0. That
is a unit vector again, and its cosine is w times the former one, so that the index needs no knowledge of weights.

This module imports no torch: the attributor's own process prepares images without it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageStat

from gmvaluator.errors import InvalidImage
from gmvaluator.image_pixels import fit_on_white
from gmvaluator.ports import Float32Array

SIDE_PX = 224
"""Side of the networks' square input."""

LARGE_SIDE_PX = 2 * SIDE_PX
"""Side of the square from whose features the windows of a generated image are embedded: a quadrant of it is as large as
the networks' usual input."""

WINDOW_SHARE = 0.55
"""Side of a window, as a share of the longer side of the drawn box."""

GRID = 3
"""Windows across, and down."""

VIEWS = 1 + GRID * GRID
"""Views of a training image."""

WINDOW_WEIGHT, BLUR_WEIGHT = 0.9, 0.95
"""Factors of the cosine of a window and of a blurred copy."""

EXTRA_DIM = 2
"""Dimensions that weighting adds: one for views of training images, one for views of generated ones."""

MIN_CONTRAST = 20
"""Lowest mean standard deviation of a window's channels, of 255 levels. A window below it shows next to nothing, and
would be near to every plain ground and to noise: the whole image replaces it."""

_MAX_SIDE_PX = 1024
"""Longer side to which an image is reduced before windows are cut: even so they exceed twice the networks' input."""

_WHITE = (255, 255, 255)
_PAPER_TOLERANCE = 12
"""Levels below white that still count as white."""

_MIN_SIDE_PX = 8


def prepare(image: Image.Image) -> Float32Array:
    """Turn an RGB image into (3, 224, 224) float32 in [-1, 1], the whole image on white. Raises InvalidImage."""
    if image.mode != "RGB":
        raise InvalidImage(f"an image of mode {image.mode} was given: decode it to RGB first")
    return unit_range(_fitted(image, SIDE_PX))


def unit_range(pixels: npt.NDArray[np.uint8]) -> Float32Array:
    """Scale levels of 0 to 255 to [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def prepare_large(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Turn an RGB image into (3, 448, 448) uint8, the whole image on white: bytes, because many images may wait."""
    return _fitted(image, LARGE_SIDE_PX)


def _fitted(image: Image.Image, side_px: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(fit_on_white(image, side_px)).transpose(2, 0, 1))


def views_of(image: Image.Image) -> list[Image.Image]:
    """Return the RGB image and nine square windows of it, row by row; what is outside the image is white.

    Windows cover the drawn box, not the margin. A very large image is reduced first.
    """
    image = _reduced(image)
    left, top, right, bottom = drawn_box(image)
    side_px = max(round(WINDOW_SHARE * max(right - left, bottom - top)), _MIN_SIDE_PX)
    across, down = _starts(left, right, side_px), _starts(top, bottom, side_px)
    windows = [_window(image, x, y, side_px) for y in down for x in across]
    return [image, *(window if _contrast(window) >= MIN_CONTRAST else image for window in windows)]


def drawn_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of everything that is not white; of the whole image if all is white."""
    ink = ImageChops.invert(image.convert("L")).point([0] * _PAPER_TOLERANCE + [255] * (256 - _PAPER_TOLERANCE))
    return ink.getbbox() or (0, 0, *image.size)


def _reduced(image: Image.Image) -> Image.Image:
    if max(image.size) <= _MAX_SIDE_PX:
        return image
    smaller = image.copy()
    smaller.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.BICUBIC)
    return smaller


def _contrast(image: Image.Image) -> float:
    return sum(ImageStat.Stat(image).stddev) / len(image.getbands())


def _starts(low: int, high: int, side_px: int) -> list[int]:
    """Spread the starts of windows over low..high; centre all of them where a window is larger than that."""
    slack_px = high - low - side_px
    return [round(low + slack_px * (place / (GRID - 1) if slack_px > 0 else 0.5)) for place in range(GRID)]


def _window(image: Image.Image, x: int, y: int, side_px: int) -> Image.Image:
    window = Image.new("RGB", (side_px, side_px), _WHITE)
    window.paste(image, (-x, -y))
    return window


def pad_whole(embeddings: Float32Array) -> Float32Array:
    """Turn embeddings (N, D) of whole images into (N, D + 2); both extra dimensions are 0."""
    return np.pad(embeddings, ((0, 0), (0, EXTRA_DIM)))


def weight_windows(embeddings: Float32Array) -> Float32Array:
    """Turn embeddings (N, D) of windows of training images into (N, D + 2), unit norm."""
    return _weighted(embeddings, WINDOW_WEIGHT, 0)


def weight_blurs(embeddings: Float32Array) -> Float32Array:
    """Turn embeddings (N, D) of blurred copies of generated images into (N, D + 2), unit norm."""
    return _weighted(embeddings, BLUR_WEIGHT, 1)


def _weighted(embeddings: Float32Array, weight: float, dimension: int) -> Float32Array:
    extra = np.zeros((len(embeddings), EXTRA_DIM), np.float32)
    extra[:, dimension] = np.sqrt(1 - weight**2)
    return np.concatenate([embeddings * np.float32(weight), extra], axis=1)
