"""What the networks of profile `lite` look at: the whole image on white, and itself out of focus."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gmvaluator.errors import InvalidImage
from gmvaluator.ports import Float32Array

SIDE_PX = 224
"""Side of the networks' square input."""

BLUR_SIGMA_PX = 3.5
"""Of the blurred view of a generated image, at `SIDE_PX`."""


def blur(inputs: Tensor) -> Tensor:
    """(B, C, H, W) seen out of focus: a Gaussian of `BLUR_SIGMA_PX`; the edge goes on as it is."""
    radius = math.ceil(3 * BLUR_SIGMA_PX)
    steps = torch.arange(-radius, radius + 1, dtype=inputs.dtype, device=inputs.device)
    kernel = torch.exp(-0.5 * (steps / BLUR_SIGMA_PX) ** 2)
    kernel = (kernel / kernel.sum()).repeat(inputs.shape[1], 1, 1, 1)
    padded = functional.pad(inputs, (radius,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel, groups=inputs.shape[1])
    return functional.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])


def prepare(image: Image.Image) -> Float32Array:
    """What `LiteModels.prepare` does; needs no models."""
    if image.mode != "RGB":
        raise InvalidImage(f"an image of mode {image.mode} was given: decode it to RGB first")
    pixels = fitted(image, SIDE_PX).astype(np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels / np.float32(127.5) - np.float32(1))


def fitted(image: Image.Image, side_px: int) -> npt.NDArray[np.uint8]:
    """RGB image to (S, S, 3) uint8: the whole image, scaled to fit and centred on white."""
    scale = side_px / max(image.size)
    width, height = (max(round(length * scale), 1) for length in image.size)
    square = Image.new("RGB", (side_px, side_px), (255, 255, 255))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((side_px - width) // 2, (side_px - height) // 2))
    return np.asarray(square)


def to_tensor(inputs: Float32Array, device: torch.device) -> Tensor:
    """(B, 3, H, W) array to a channels-last tensor on `device`, whether or not the array may be written."""
    writeable = inputs if inputs.flags.writeable else inputs.copy()
    return torch.from_numpy(writeable).to(device, memory_format=torch.channels_last)
