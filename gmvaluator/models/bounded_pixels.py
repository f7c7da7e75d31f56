"""The whole image for quality metrics that take any size, no longer than they can bear."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.models.parts.part import Part
from gmvaluator.models.squash import pixels_of

MAX_SIDE_PX = 1024
"""MUSIQ's memory grows with the square of the number of 32-pixel patches."""

MIN_SIDE_PX = 96
"""NIQE looks at blocks of 96 pixels and needs one at least."""


class BoundedPixels:
    """`preparation.Preparer`: the shorter side enlarged to 96, the longer reduced to 1024, else as it is."""

    square_resize = None

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image to (3, H, W) uint8."""
        scale = min(max(1.0, MIN_SIDE_PX / min(image.size)), MAX_SIDE_PX / max(image.size))
        if scale == 1.0:
            return pixels_of(image)
        width, height = (max(round(side * scale), 1) for side in image.size)
        size = max(width, MIN_SIDE_PX), max(height, MIN_SIDE_PX)
        return pixels_of(image.resize(size, Image.Resampling.BICUBIC))


def bounded_preparer(part: Part) -> BoundedPixels:  # noqa: ARG001 - the same for every metric
    """See `preparation.preparation_of`."""
    return BoundedPixels()
