"""Preprocessing: from an RGB image to the inputs of a composed profile's models. Needs no weights and no torch.

Each preparer makes one model's input as the model's own package does, up to the pixels: scaling and normalising follow
on the device (`device.unit_range`, `device.Normalisation`). Processes that only prepare inputs import this module, so
it imports neither torch nor a model's package. The preparer of open_clip is the exception: its transform is the
package's own, imported when the preparer is made.

MANIQA scores crops of an image. Of the 5 x 5 grid that a step of a quarter of the free space gives, pyiqa 0.1.16 takes
the first 20 in reading order: the upper four rows. It draws no random numbers, so equal pixels have equal crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.errors import InvalidImage
from gmvaluator.local_features.detection import Detector
from gmvaluator.models.known_models import ALL_CROPS
from gmvaluator.models.lite_views import prepare, prepare_large
from gmvaluator.models.lite_weights import shipped_detector
from gmvaluator.models.specs import Family, ModelSpec, ProfileSpecs
from gmvaluator.ports import Prepared
from gmvaluator.windows import WINDOWS

Pixels = npt.NDArray[Any]

NOTHING: Pixels = np.empty(0, np.uint8)
"""Input of a model that the profile lacks, or whose output is not needed."""


class Preparer(Protocol):
    """A preparer of one model's input from an image. Thread-safe."""

    @property
    def square_resize(self) -> tuple[int, str] | None:
        """(S, filter) if a square image is resized to S x S and not changed otherwise; else None."""

    def __call__(self, image: Image.Image) -> Pixels:
        """Preprocess an RGB image of any size to the input that the model's module describes."""


class Preparation:
    """The preparers of a profile's three models. Where two would make the same pixels, the image is resized once."""

    def __init__(
        self, recall: Preparer, perceptual: Preparer | None, quality: Preparer | None, detector: Detector
    ) -> None:
        self._recall = recall
        self._perceptual = perceptual
        self._quality = quality
        self._detector = detector
        square = recall.square_resize
        self._shares_squares = square is not None and perceptual is not None and perceptual.square_resize == square

    def query(self, image: Image.Image, parts: bool = True) -> Prepared:
        """Preprocess an RGB image for every model, and for `parts` its windows and local features.

        Raises InvalidImage if it is not RGB.
        """
        vectors = self.work(image)
        quality = self._quality(image) if self._quality else NOTHING
        whole = replace(vectors, quality=quality)
        if not parts:
            return whole
        return replace(whole, windows=prepare_large(image), local=self._detector.detect_image(image))

    def described_work(self, image: Image.Image) -> Prepared:
        """Preprocess an RGB training image as `work` does, with its local features."""
        return replace(self.work(image), local=self._detector.detect_work(image))

    def windows(self, large: Pixels) -> list[Pixels]:
        """Return the recall model's inputs for the windows of `Prepared.windows`."""
        image = Image.fromarray(np.ascontiguousarray(large.transpose(1, 2, 0)))
        return [self._recall(image.crop(box.pixels(image.width))) for box in WINDOWS]

    def work(self, image: Image.Image) -> Prepared:
        """Preprocess an RGB training image for the embedding models alone. Raises InvalidImage if it is not RGB."""
        if image.mode != "RGB":
            raise InvalidImage(f"an image of mode {image.mode} was given: decode it to RGB first")
        recall = self._recall(image)
        if self._perceptual is None:
            return Prepared(recall, NOTHING, NOTHING)
        shared = self._shares_squares and image.width == image.height
        return Prepared(recall, recall if shared else self._perceptual(image), NOTHING)


def preparation_of(specs: ProfileSpecs) -> Preparation:
    """Return the preparers of a profile's models. Raises UnknownModel or PreconditionFailed."""
    recall = preparer_of(specs.recall)
    assert recall is not None
    return Preparation(recall, preparer_of(specs.perceptual), preparer_of(specs.quality), shipped_detector())


def preparer_of(spec: ModelSpec) -> Preparer | None:
    """Return a model's preparer, None if the model computes nothing. Raises UnknownModel or PreconditionFailed."""
    return None if spec.family is None else _PREPARERS[spec.family](spec)


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of an RGB image as (3, H, W) uint8, contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


SQUASH_SIDE_PX = 224


class Squash:
    """`Preparer` of DreamSim and LPIPS: the whole image squashed to 224 x 224, bicubic, whatever its proportions.

    Its pixels equal those of DreamSim's own transform before that scales them to [0, 1].
    """

    @property
    def square_resize(self) -> tuple[int, str]:
        return SQUASH_SIDE_PX, "bicubic"

    def __call__(self, image: Image.Image) -> npt.NDArray[Any]:
        """Convert an RGB image to (3, 224, 224) uint8."""
        return pixels_of(image.resize((SQUASH_SIDE_PX, SQUASH_SIDE_PX), Image.Resampling.BICUBIC))


VGG16_RESIZED_PX, VGG16_SIDE_PX = 256, 224
VGG16_MEAN, VGG16_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vgg16Transform:
    """`Preparer` of VGG-16, as torchvision's for its ImageNet weights: the shorter side to 256, bilinear, and the
    middle square of 224.
    """

    square_resize = None

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Convert an RGB image to (3, 224, 224) uint8."""
        shorter = min(image.size)
        width, height = (int(VGG16_RESIZED_PX * side / shorter) for side in image.size)
        left, top = round((width - VGG16_SIDE_PX) / 2), round((height - VGG16_SIDE_PX) / 2)
        box = (left, top, left + VGG16_SIDE_PX, top + VGG16_SIDE_PX)
        return pixels_of(image.resize((width, height), Image.Resampling.BILINEAR).crop(box))


class LitePreparer:
    """`Preparer` of the quality head of profile `lite`: the whole image on white."""

    square_resize = None

    def __call__(self, image: Image.Image) -> Pixels:
        """Convert an RGB image to (3, 224, 224) float32 in [-1, 1]."""
        return prepare(image)


MAX_SIDE_PX = 1024
"""Longer side of what a metric of any size is given: MUSIQ's memory grows with the square of its 32-pixel patches."""

MIN_SIDE_PX = 96
"""Shorter side of what a metric of any size is given: NIQE scores blocks of 96 pixels and needs at least one."""


class BoundedPixels:
    """`Preparer` of metrics that take any size: the shorter side enlarged to 96, the longer reduced to 1024."""

    square_resize = None

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Convert an RGB image to (3, H, W) uint8; an image within the bounds keeps its size."""
        scale = min(max(1.0, MIN_SIDE_PX / min(image.size)), MAX_SIDE_PX / max(image.size))
        if scale == 1.0:
            return pixels_of(image)
        width, height = (max(round(side * scale), 1) for side in image.size)
        # A very long image cannot meet both bounds: it is distorted rather than refused.
        size = max(width, MIN_SIDE_PX), max(height, MIN_SIDE_PX)
        return pixels_of(image.resize(size, Image.Resampling.BICUBIC))


class Crops:
    """`Preparer` of MANIQA. count: how many crops of an image it scores."""

    square_resize = None

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Convert an RGB image to (3, H, W) uint8, or to its crops (N, 3, 224, 224)."""
        return crops_if_smaller(np.asarray(image).transpose(2, 0, 1), self.count)


CROP_SIDE_PX = 224
_COLUMNS, _STEPS = 5, 4
"""Ceiling and floor of the root of 20, from which pyiqa makes its grid."""


def crops_if_smaller(pixels: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Return (3, H, W) unchanged, or its `count` crops (N, 3, 224, 224) where those take less room in the queue."""
    height, width = pixels.shape[1:]
    if min(height, width) <= CROP_SIDE_PX or height * width <= count * CROP_SIDE_PX**2:
        return np.ascontiguousarray(pixels)
    return np.stack([cut(pixels, top, left) for top, left in chosen_crops(height, width, count)])


def chosen_crops(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Return (top, left) of `count` crops of an image whose sides are at least 224, in pyiqa's order.

    20 are pyiqa's. Fewer begin at the centre, and each next one is the farthest from those before: the crops of a
    smaller count are among those of a larger one.
    """
    step_y, step_x = (height - CROP_SIDE_PX) // _STEPS, (width - CROP_SIDE_PX) // _STEPS
    cells = sorted(cell_order()[:count])
    return [(cell // _COLUMNS * step_y, cell % _COLUMNS * step_x) for cell in cells]


@lru_cache(maxsize=1)
def cell_order() -> tuple[int, ...]:
    """Return the grid's cells in the order in which they are taken: the centre, then each time the farthest."""
    places = [divmod(cell, _COLUMNS) for cell in range(ALL_CROPS)]
    taken = [2 * _COLUMNS + 2]
    while len(taken) < ALL_CROPS:
        gaps = [min((y - places[t][0]) ** 2 + (x - places[t][1]) ** 2 for t in taken) for y, x in places]
        taken.append(int(np.argmax(gaps)))
    return tuple(taken)


def cut(image: Any, top: int, left: int) -> Any:
    """Cut one crop: (..., H, W) to (..., 224, 224)."""
    return image[..., top : top + CROP_SIDE_PX, left : left + CROP_SIDE_PX]


def _openclip(spec: ModelSpec) -> Preparer:
    # The transform is open_clip's own, which imports torch: only profiles that use it pay for that.
    from gmvaluator.models.openclip import openclip_preparer

    return openclip_preparer(spec)


_PREPARERS: dict[Family, Callable[[ModelSpec], Preparer]] = {
    "openclip": _openclip,
    "vgg16": lambda _: Vgg16Transform(),
    "dreamsim": lambda _: Squash(),
    "lpips": lambda _: Squash(),
    "maniqa": lambda spec: Crops(spec.settings["crops"]),
    "pyiqa": lambda _: BoundedPixels(),
    "lite": lambda _: LitePreparer(),
}
