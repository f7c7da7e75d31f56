"""The crops of an image that MANIQA looks at: pyiqa's grid, and the order in which fewer are taken.

Of the 5 x 5 grid that a step of a quarter of the free space gives, pyiqa 0.1.16 takes the first 20 in reading order:
the upper four rows. It draws no random numbers, so the same pixels have the same crops.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.models.parts.part import Part

CROP_SIDE_PX = 224
ALL_CROPS = 20
_COLUMNS, _STEPS = 5, 4
"""ceil and floor of the root of 20."""


def chosen_crops(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """(top, left) of `count` crops of an image whose sides are at least 224, in pyiqa's order.

    20 are pyiqa's. Fewer begin at the centre, and each next one is the farthest from those that were taken; what 3
    crops see, 4 see too.
    """
    step_y, step_x = (height - CROP_SIDE_PX) // _STEPS, (width - CROP_SIDE_PX) // _STEPS
    cells = sorted(order_taken()[:count])
    return [(cell // _COLUMNS * step_y, cell % _COLUMNS * step_x) for cell in cells]


@lru_cache(maxsize=1)
def order_taken() -> tuple[int, ...]:
    """The grid's cells, the centre first, then always the one farthest from all before."""
    places = [divmod(cell, _COLUMNS) for cell in range(ALL_CROPS)]
    taken = [2 * _COLUMNS + 2]
    while len(taken) < ALL_CROPS:
        gaps = [min((y - places[t][0]) ** 2 + (x - places[t][1]) ** 2 for t in taken) for y, x in places]
        taken.append(int(np.argmax(gaps)))
    return tuple(taken)


def prepared_pixels(pixels: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """(3, H, W) as it is, or its crops (N, 3, 224, 224) where they are smaller: less waits in the queue."""
    height, width = pixels.shape[1:]
    if min(height, width) <= CROP_SIDE_PX or height * width <= count * CROP_SIDE_PX**2:
        return np.ascontiguousarray(pixels)
    return np.stack([cut(pixels, top, left) for top, left in chosen_crops(height, width, count)])


def cut(image: Any, top: int, left: int) -> Any:
    """(..., H, W) to (..., 224, 224)."""
    return image[..., top : top + CROP_SIDE_PX, left : left + CROP_SIDE_PX]


class Crops:
    """`preparation.Preparer` for MANIQA."""

    square_resize = None

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image to (3, H, W) uint8, or to its crops."""
        return prepared_pixels(np.asarray(image).transpose(2, 0, 1), self.count)


def crops_preparer(part: Part) -> Crops:
    """See `preparation.preparation_of`."""
    return Crops(part.settings["crops"])
