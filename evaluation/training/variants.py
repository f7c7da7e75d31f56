"""Seeded changes to a clean image that leave it as good as it was."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def clean_variant(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image recoloured, mirrored, cut, set on other paper or saved with care, each by chance; RGB.

    A quality head must not punish the difference.
    """
    result = image.copy()
    for change, chance in _CHANGES:
        if rng.random() < chance:
            result = change(result, rng)
    return result


def recolour(image: Image.Image, rng: random.Random) -> Image.Image:
    """All hues turned by one angle, saturation scaled by 0.4 to 1.4."""
    hue, saturation, value = image.convert("HSV").split()
    shift = round(256 * rng.random())
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    result = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    return ImageEnhance.Color(result).enhance(0.4 + rng.random())


def _grey(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return image.convert("L").convert("RGB")


def _mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return ImageOps.mirror(image)


def _tint(image: Image.Image, rng: random.Random) -> Image.Image:
    """White becomes another light colour, and all else with it."""
    paper = np.array([0.55 + 0.45 * rng.random() for _ in range(3)])
    return Image.fromarray(np.rint(np.asarray(image) * paper).astype(np.uint8))


def _cut(image: Image.Image, rng: random.Random) -> Image.Image:
    """A window of half to all of each side, enlarged to the image's longest side."""
    shares = (0.5 + 0.5 * rng.random(), 0.5 + 0.5 * rng.random())
    width, height = (max(round(share * length), 16) for share, length in zip(shares, image.size, strict=True))
    x, y = round(rng.random() * max(image.width - width, 0)), round(rng.random() * max(image.height - height, 0))
    window = image.crop((x, y, min(x + width, image.width), min(y + height, image.height)))
    return ImageOps.contain(window, (max(image.size), max(image.size)), Image.Resampling.BICUBIC)


def _square(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return ImageOps.pad(image, (max(image.size), max(image.size)), Image.Resampling.BICUBIC, color=(255, 255, 255))


def _saved(image: Image.Image, rng: random.Random) -> Image.Image:
    """WebP of quality 75 to 95, as the web and the sample have it."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=round(75 + 20 * rng.random()))
    return Image.open(buffer).convert("RGB")


_CHANGES = (
    (_mirror, 0.5),
    (_cut, 0.3),
    (_square, 0.5),
    (recolour, 0.4),
    (_grey, 0.05),
    (_tint, 0.15),
    (_saved, 0.7),
)
