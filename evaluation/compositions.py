"""Images made of two or three works whose shares are known."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from evaluation.recipes import SIDE_PX, square

WEIGHTS: dict[int, tuple[tuple[float, ...], ...]] = {
    2: ((0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.5, 0.5)),
    3: ((0.7, 0.2, 0.1), (0.6, 0.25, 0.15), (0.45, 0.35, 0.2), (1 / 3, 1 / 3, 1 / 3)),
}
"""Shares by number of sources, at strengths 1 to 4: plainly one work's, to even."""


def compose_weighted(strength: int, sources: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """The sources blended, or side by side, in the shares that WEIGHTS gives them; RGB, 256 x 256.

    Blended, a share is the weight of each pixel; side by side, it is the share of the width. Raises KeyError for
    another number of sources.
    """
    weights = WEIGHTS[len(sources)][strength - 1]
    return _blend(sources, weights) if rng.random() < 0.5 else _side_by_side(sources, weights, rng)


def _blend(sources: Sequence[Image.Image], weights: Sequence[float]) -> Image.Image:
    pixels = sum(
        weight * np.asarray(square(source), dtype=np.float64) for source, weight in zip(sources, weights, strict=True)
    )
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _side_by_side(sources: Sequence[Image.Image], weights: Sequence[float], rng: random.Random) -> Image.Image:
    result = Image.new("RGB", (SIDE_PX, SIDE_PX), (255, 255, 255))
    order = rng.sample(range(len(sources)), len(sources))
    start = 0.0
    for place in order:
        left, right = round(start), round(start + weights[place] * SIDE_PX)
        strip = ImageOps.fit(sources[place].convert("RGB"), (right - left, SIDE_PX), Image.Resampling.BICUBIC)
        result.paste(strip, (left, 0))
        start += weights[place] * SIDE_PX
    return result
