"""torchvision's transform for VGG-16's ImageNet weights, but for scaling and normalising."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.models.parts.part import Part
from gmvaluator.models.squash import pixels_of

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


def vgg16_preparer(part: Part) -> Vgg16Transform:  # noqa: ARG001 - there is but one
    """See `preparation.preparation_of`."""
    return Vgg16Transform()
