"""Views: of a training image the whole and nine windows, as a generator may show a part of it alone; of a generated
image the whole and a blurred copy, as it may have another texture than what it was made from.

Two images are as near as their nearest views, and a view that is not the whole image counts for a little less: its
embedding v becomes (w v, sqrt(1 - w²)) with a number more, in which the other side has 0. That is a unit vector again,
and its cosine is w times what it was, so that the index needs to know nothing of it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageStat

from gmvaluator.ports import Float32Array

WINDOW_SHARE = 0.55
"""Side of a window against the longer side of what is drawn."""

GRID = 3
"""Windows across and down."""

VIEWS = 1 + GRID * GRID

WINDOW_WEIGHT, BLUR_WEIGHT = 0.9, 0.95
"""What the cosine of such a view is multiplied by."""

EXTRA_DIM = 2
"""Numbers that weighing adds: one for views of training images, one for views of generated ones."""

MIN_CONTRAST = 20
"""Mean standard deviation of a window's channels, of 255 levels; a window with less shows next to nothing, and would be
near to every plain ground and to noise: the whole image stands in for it."""

_MAX_SIDE_PX = 1024
_WHITE = (255, 255, 255)
_PAPER_TOLERANCE = 12
_MIN_SIDE_PX = 8


def views_of(image: Image.Image) -> list[Image.Image]:
    """The RGB image, and nine square windows of it, row by row; what lies outside the image is white.

    A very large image is reduced first: windows are more than twice the side of a model's input even so.
    """
    image = _reduced(image)
    left, top, right, bottom = drawn_box(image)
    side_px = max(round(WINDOW_SHARE * max(right - left, bottom - top)), _MIN_SIDE_PX)
    across, down = _starts(left, right, side_px), _starts(top, bottom, side_px)
    windows = [_window(image, x, y, side_px) for y in down for x in across]
    return [image, *(window if _contrast(window) >= MIN_CONTRAST else image for window in windows)]


def _reduced(image: Image.Image) -> Image.Image:
    if max(image.size) <= _MAX_SIDE_PX:
        return image
    smaller = image.copy()
    smaller.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.BICUBIC)
    return smaller


def _contrast(image: Image.Image) -> float:
    return sum(ImageStat.Stat(image).stddev) / len(image.getbands())


def drawn_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of everything that is not white; the whole image if all is white."""
    ink = ImageChops.invert(image.convert("L")).point([0] * _PAPER_TOLERANCE + [255] * (256 - _PAPER_TOLERANCE))
    return ink.getbbox() or (0, 0, *image.size)


def _starts(low: int, high: int, side_px: int) -> list[int]:
    """Where the windows begin, spread over low..high; all in the middle where a window is the larger."""
    slack_px = high - low - side_px
    return [round(low + slack_px * (place / (GRID - 1) if slack_px > 0 else 0.5)) for place in range(GRID)]


def _window(image: Image.Image, x: int, y: int, side_px: int) -> Image.Image:
    window = Image.new("RGB", (side_px, side_px), _WHITE)
    window.paste(image, (-x, -y))
    return window


def whole(embeddings: Float32Array) -> Float32Array:
    """(N, D) of whole images to (N, D + 2)."""
    return np.pad(embeddings, ((0, 0), (0, EXTRA_DIM)))


def weighed_windows(embeddings: Float32Array) -> Float32Array:
    """(N, D) of windows of training images to (N, D + 2), unit norm."""
    return _weighed(embeddings, WINDOW_WEIGHT, 0)


def weighed_blurs(embeddings: Float32Array) -> Float32Array:
    """(N, D) of blurred copies of generated images to (N, D + 2), unit norm."""
    return _weighed(embeddings, BLUR_WEIGHT, 1)


def _weighed(embeddings: Float32Array, weight: float, place: int) -> Float32Array:
    extra = np.zeros((len(embeddings), EXTRA_DIM), np.float32)
    extra[:, place] = np.sqrt(1 - weight**2)
    return np.concatenate([embeddings * np.float32(weight), extra], axis=1)
