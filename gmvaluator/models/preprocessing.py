"""From an image to the inputs of a composed profile's models; needs no weights, and no torch of its own.

DreamSim's transform: the whole image squashed to 224 x 224 by a bicubic filter, whatever its proportions.

torchvision's transform for VGG-16's ImageNet weights, but for scaling and normalising.

The whole image for quality metrics that take any size, no longer than they can bear.

The crops of an image that MANIQA looks at: pyiqa's grid, and the order in which fewer are taken.

Of the 5 x 5 grid that a step of a quarter of the free space gives, pyiqa 0.1.16 takes the first 20 in reading order:
the upper four rows. It draws no random numbers, so the same pixels have the same crops.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.errors import InvalidImage
from gmvaluator.models.specs import ModelSpec, ProfileSpecs
from gmvaluator.ports import Prepared

Pixels = npt.NDArray[Any]

NOTHING: Pixels = np.empty(0, np.uint8)
"""Input of a model that is not there, or not asked."""


class Preparer(Protocol):
    """What makes one model's input of an image. Thread-safe."""

    @property
    def square_resize(self) -> tuple[int, str] | None:
        """(S, filter) if a square image is resized to S x S and nothing else is done to it; None if more is done."""

    def __call__(self, image: Image.Image) -> Pixels:
        """RGB image of any size to the input that the model's adapter states."""


class Preparation:
    """The three models' preparers. Where two would make the same pixels of an image, it is resized once."""

    def __init__(self, recall: Preparer, perceptual: Preparer | None, quality: Preparer | None) -> None:
        self._recall = recall
        self._perceptual = perceptual
        self._quality = quality
        self._shares_squares = perceptual is not None and _same(recall.square_resize, perceptual.square_resize)

    def query(self, image: Image.Image) -> Prepared:
        """RGB image to every model's input. Raises InvalidImage if it is not RGB."""
        vectors = self.work(image)
        return Prepared(vectors.recall, vectors.perceptual, self._quality(image) if self._quality else NOTHING)

    def work(self, image: Image.Image) -> Prepared:
        """RGB training image to the inputs of the models that make vectors. Raises InvalidImage."""
        if image.mode != "RGB":
            raise InvalidImage(f"an image of mode {image.mode} was given: decode it to RGB first")
        recall = self._recall(image)
        if self._perceptual is None:
            return Prepared(recall, NOTHING, NOTHING)
        shared = self._shares_squares and image.width == image.height
        return Prepared(recall, recall if shared else self._perceptual(image), NOTHING)


def preparation_of(parts: ProfileSpecs) -> Preparation:
    """Import the preparers that the parts name, and put them together."""
    recall = _preparer(parts.recall)
    assert recall is not None
    return Preparation(recall, _preparer(parts.perceptual), _preparer(parts.quality))


def _preparer(part: ModelSpec) -> Preparer | None:
    if not part.preparer:
        return None
    preparer: Preparer = importlib.import_module(part.preparer).preparer(part)
    return preparer


def _same(one: tuple[int, str] | None, other: tuple[int, str] | None) -> bool:
    return one is not None and one == other


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


def squash_preparer(part: ModelSpec) -> Squash:  # noqa: ARG001 - every type has the same transform
    """See `preparation.preparation_of`."""
    return Squash()


VGG16_RESIZED_PX, VGG16_SIDE_PX = 256, 224
VGG16_MEAN, VGG16_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vgg16Transform:
    """`preparation.Preparer`: the shorter side to 256, bilinear, and the middle square of 224."""

    square_resize = None

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image to (3, 224, 224) uint8."""
        shorter = min(image.size)
        width, height = (int(VGG16_RESIZED_PX * side / shorter) for side in image.size)
        left, top = round((width - VGG16_SIDE_PX) / 2), round((height - VGG16_SIDE_PX) / 2)
        box = (left, top, left + VGG16_SIDE_PX, top + VGG16_SIDE_PX)
        return pixels_of(image.resize((width, height), Image.Resampling.BILINEAR).crop(box))


def vgg16_preparer(part: ModelSpec) -> Vgg16Transform:  # noqa: ARG001 - there is but one
    """See `preparation.preparation_of`."""
    return Vgg16Transform()


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


def bounded_preparer(part: ModelSpec) -> BoundedPixels:  # noqa: ARG001 - the same for every metric
    """See `preparation.preparation_of`."""
    return BoundedPixels()


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


def crops_preparer(part: ModelSpec) -> Crops:
    """See `preparation.preparation_of`."""
    return Crops(part.settings["crops"])
