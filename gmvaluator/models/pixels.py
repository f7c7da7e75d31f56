"""Pixels between Pillow and a model: prepared as bytes beside it, scaled to its range on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gmvaluator.errors import ModelFailed
from gmvaluator.models.runtime import Runtime


def unit_range(inputs: Sequence[npt.NDArray[Any]], runtime: Runtime) -> Tensor:
    """B arrays (3, H, W) uint8 of one shape to (B, 3, H, W) float32 in [0, 1] on the device.

    To the bit what torchvision's ToTensor makes of the same image. Raises ModelFailed for anything else.
    """
    shapes = {(one.shape, one.dtype.name) for one in inputs}
    if len(shapes) != 1 or inputs[0].dtype != np.uint8 or inputs[0].ndim != 3 or len(inputs[0]) != 3:
        raise ModelFailed(f"inputs of {shapes} cannot be embedded together: give (3, H, W) uint8 from prepare")
    return torch.from_numpy(np.stack(inputs)).to(runtime.device).to(torch.float32).div(255)


class Normalisation:
    """(pixels - mean) / standard deviation, a channel."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], device: torch.device) -> None:
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None]
        self._deviation = torch.tensor(deviation, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1] to the model's range."""
        return (pixels - self._mean) / self._deviation
