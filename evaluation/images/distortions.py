"""Seeded distortions of a single image: blur, noise, JPEG, pixelation and damaged patches.

The quality head is trained on them, and policies may be fitted on them. Their strengths were fixed before the first
head was trained. Pixels and radii refer to 256 px, the longest side of the sample; strengths between the four steps
interpolate their parameter geometrically.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

STEPS: dict[str, tuple[float, float, float, float]] = {
    "blur": (1.0, 2.0, 3.5, 6.0),
    "noise": (12.0, 25.0, 45.0, 70.0),
    "jpeg": (30.0, 15.0, 8.0, 4.0),
    "pixelation": (3.0, 5.0, 8.0, 12.0),
    "patch": (0.05, 0.1, 0.2, 0.35),
}
"""Parameter of each kind at strengths 1 to 4: Gaussian radius in px; Gaussian sigma in levels of 255; JPEG quality;
block side in px; share of the area that is damaged."""

KINDS = tuple(STEPS)
MAX_STRENGTH = 4


def distort(kind: str, strength: float, image: Image.Image, rng: random.Random) -> Image.Image:
    """Return a distorted copy, RGB, of the same size; the same arguments and generator state give the same pixels.

    kind: one of KINDS. strength: 0.25 to 4, higher is worse. image: RGB. Raises ValueError otherwise.
    """
    if kind not in STEPS or not 0.25 <= strength <= MAX_STRENGTH:
        raise ValueError(f"no distortion {kind} of strength {strength}: kinds are {KINDS}, strengths 0.25 to 4")
    return _DISTORTIONS[kind](image, _parameter(kind, strength), rng)


def _parameter(kind: str, strength: float) -> float:
    """Interpolate geometrically between the steps, and extrapolate below the first."""
    steps = STEPS[kind]
    low = min(max(math.floor(strength), 1), MAX_STRENGTH - 1) - 1
    return float(steps[low] * (steps[low + 1] / steps[low]) ** (strength - 1 - low))


def _blur(image: Image.Image, radius_px: float, rng: random.Random) -> Image.Image:
    """Blur by a Gaussian."""
    del rng
    return image.filter(ImageFilter.GaussianBlur(radius_px))


def _noise(image: Image.Image, sigma_levels: float, rng: random.Random) -> Image.Image:
    """Add Gaussian noise, independent in each channel."""
    generator = np.random.default_rng(rng.getrandbits(64))
    pixels = np.asarray(image, dtype=np.float64)
    noisy = pixels + generator.normal(0.0, sigma_levels, pixels.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: float, rng: random.Random) -> Image.Image:
    """Add the blocks and ringing of strong JPEG compression."""
    del rng
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=max(round(quality), 1))
    return Image.open(buffer).convert("RGB")


def _pixelation(image: Image.Image, block_px: float, rng: random.Random) -> Image.Image:
    """Average to a coarse grid shown as blocks."""
    del rng
    width, height = (max(round(length / block_px), 1) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _patch(image: Image.Image, area_share: float, rng: random.Random) -> Image.Image:
    """Replace squares by flat colour, noise or another part of the image, until the share is reached."""
    result = image.copy()
    side_px = max(round(math.sqrt(image.width * image.height) * (0.09 + 0.06 * rng.random())), 2)
    count = max(round(area_share * image.width * image.height / side_px**2), 1)
    for _ in range(count):
        piece = _DAMAGE[math.floor(rng.random() * len(_DAMAGE))](image, side_px, rng)
        result.paste(piece, _corner(image, side_px, rng))
    return result


def _corner(image: Image.Image, side_px: int, rng: random.Random) -> tuple[int, int]:
    x, y = (math.floor(rng.random() * max(length - side_px, 1)) for length in image.size)
    return x, y


def _flat_piece(image: Image.Image, side_px: int, rng: random.Random) -> Image.Image:
    red, green, blue = (math.floor(rng.random() * 256) for _ in range(3))
    return Image.new("RGB", (min(side_px, image.width), min(side_px, image.height)), (red, green, blue))


def _noise_piece(image: Image.Image, side_px: int, rng: random.Random) -> Image.Image:
    del image
    generator = np.random.default_rng(rng.getrandbits(64))
    return Image.fromarray(generator.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8))


def _moved_piece(image: Image.Image, side_px: int, rng: random.Random) -> Image.Image:
    """Return another part of the same image, upside down and inverted, so that paper shows as damage as well."""
    x, y = _corner(image, side_px, rng)
    return ImageOps.invert(ImageOps.flip(image.crop((x, y, x + side_px, y + side_px))))


_Distortion = Callable[[Image.Image, float, random.Random], Image.Image]
_DAMAGE = (_flat_piece, _noise_piece, _moved_piece)
_DISTORTIONS: dict[str, _Distortion] = {
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "pixelation": _pixelation,
    "patch": _patch,
}
