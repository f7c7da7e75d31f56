"""Batches of pictures in a seeded order, and drawing new pictures: shared by both generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIDE_PX = 28
BATCH = 128
_CHUNK = 256

Images = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called after each epoch with the number of epochs done and the total."""


class Sampler(Protocol):
    """A trained generator."""

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Draw (count, 1, 28, 28) float32 in [0, 1], without gradients."""


def silent(done: int, total: int) -> None:
    """Ignore progress."""


def to_unit(images: Images) -> Tensor:
    """Convert (N, 28, 28) uint8 to (N, 1, 28, 28) float32 in [0, 1]. Raises ValueError for any other shape or type."""
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE_PX, SIDE_PX) or not len(images):
        raise ValueError(f"generators learn from (N, 28, 28) uint8 pictures, not {images.shape} {images.dtype}")
    return torch.from_numpy(images.astype(np.float32))[:, None] / 255


def batches(pictures: Tensor, random: torch.Generator, size: int = BATCH) -> Iterator[Tensor]:
    """Yield every picture once, in a random order, `size` at a time; the last batch may be smaller."""
    order = torch.randperm(len(pictures), generator=random)
    for start in range(0, len(order), size):
        yield pictures[order[start : start + size]]


def sample(model: Sampler, n: int, seed: int) -> Images:
    """Draw `n` new pictures, (n, 28, 28) uint8; a seed gives the same pictures on the same machine."""
    random = torch.Generator().manual_seed(seed)
    drawn = [model.draw(min(_CHUNK, n - start), random) for start in range(0, n, _CHUNK)]
    pictures = torch.cat(drawn)[:, 0].clamp(0, 1) * 255
    return pictures.round().to(torch.uint8).numpy()
