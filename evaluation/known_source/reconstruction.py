"""Reconstructions: what a small autoencoder, trained in seconds on the works of a split, remembers of each.

No recipe, but what something has learned of a work: the nearest of the known sources to what a generator makes. The
autoencoder is linear with tied weights, whose best weights are known, the principal components (Baldi and Hornik,
1989): training is one decomposition, exact and the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluation.recipes import SIDE_PX, square

CODE_NUMBERS = (160, 80, 40, 20)
"""Numbers that the code keeps of a work, at strengths 1 to 4."""

_TRAINED_PX = 96
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """mean: (27648,), pixels of the mean work in [0, 1]. weights: (160, 27648), orthonormal, most telling first."""

    mean: Pixels
    weights: Pixels

    def reconstruct(self, work: Image.Image, strength: int) -> Image.Image:
        """A work as the code of this strength remembers it: RGB, 256 x 256."""
        weights = self.weights[: CODE_NUMBERS[strength - 1]]
        decoded = self.mean + (_pixels(work) - self.mean) @ weights.T @ weights
        levels = np.rint(decoded.clip(0, 1) * 255).astype(np.uint8).reshape(_TRAINED_PX, _TRAINED_PX, 3)
        return Image.fromarray(levels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def train_autoencoder(works: Sequence[Image.Image]) -> Autoencoder:
    """On RGB works of any size; the code has fewer numbers than there are works.

    The principal components come from the products of the works with each other, which are fewer than the pixels.
    """
    pixels = np.stack([_pixels(work) for work in works])
    mean = pixels.mean(axis=0)
    pixels -= mean
    spread, directions = np.linalg.eigh((pixels @ pixels.T).astype(np.float64))
    count = min(CODE_NUMBERS[0], len(works) - 1)
    telling = directions[:, ::-1][:, :count] / np.sqrt(spread[::-1][:count])
    return Autoencoder(mean, telling.T.astype(np.float32) @ pixels)


def _pixels(work: Image.Image) -> Pixels:
    small = square(work).resize((_TRAINED_PX, _TRAINED_PX), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / np.float32(255)
