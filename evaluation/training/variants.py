"""Seeded changes to a clean image: views, which show the same work, and variants, which are as good as the work."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def view(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image as another would show it: cut, mirrored, turned, recoloured, grey or blurred, each by chance; RGB.

    A perceptual distance should not see the difference.
    """
    result = _square(image, rng)
    for change, chance in _VIEW_CHANGES:
        if rng.random() < chance:
            result = change(result, rng)
    return result


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


def _turn(image: Image.Image, rng: random.Random) -> Image.Image:
    degrees = 30 * rng.random() - 15
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))


def _soften(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.5 + 2.5 * rng.random()))


def _window(image: Image.Image, rng: random.Random) -> Image.Image:
    """A square window of half to all of the side, enlarged to the full side."""
    side_px = max(round((0.5 + 0.5 * rng.random()) * image.width), 1)
    x, y = round(rng.random() * (image.width - side_px)), round(rng.random() * (image.height - side_px))
    return image.crop((x, y, x + side_px, y + side_px)).resize(image.size, Image.Resampling.BICUBIC)


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


_VIEW_CHANGES = (
    (_window, 0.7),
    (_mirror, 0.5),
    (_turn, 0.5),
    (recolour, 0.5),
    (_grey, 0.2),
    (_soften, 0.4),
)
_CHANGES = (
    (_mirror, 0.5),
    (_cut, 0.3),
    (_square, 0.5),
    (recolour, 0.4),
    (_grey, 0.05),
    (_tint, 0.15),
    (_saved, 0.7),
)
