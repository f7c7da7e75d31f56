"""DreamSim's transform: the whole image squashed to 224 x 224 by a bicubic filter, whatever its proportions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.models.parts.part import Part

SQUASH_SIDE_PX = 224


class Squash:
    """`preparation.Preparer`: to the bit what the package's own transform does before it scales to [0, 1]."""

    @property
    def square_resize(self) -> tuple[int, str]:
        return SQUASH_SIDE_PX, "bicubic"

    def __call__(self, image: Image.Image) -> npt.NDArray[Any]:
        """RGB image to (3, 224, 224) uint8."""
        return pixels_of(image.resize((SQUASH_SIDE_PX, SQUASH_SIDE_PX), Image.Resampling.BICUBIC))


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """RGB image to (3, H, W) uint8, contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def squash_preparer(part: Part) -> Squash:  # noqa: ARG001 - every type has the same transform
    """See `preparation.preparation_of`."""
    return Squash()
