"""Near-copies of a work, made by seedless recipes: the same work makes the same copies."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

KINDS = ("reencoded", "resized", "recoloured", "cropped", "mirrored")
LEVELS = 5
"""Copies of each kind; together 25."""

_QUALITIES = (90, 75, 60, 45, 30)
_SCALES = (0.9, 0.8, 0.7, 0.6, 0.5)
_HUE_DEGREES = (-30, -15, 10, 20, 40)
_CUT = 0.1
"""Part of each side that a crop takes away."""

_PLACES = ((0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1))
"""Where the cut is taken from: 0 right or below alone, 1 left or above alone, 0.5 from both sides."""


def near_copy(image: Image.Image, kind: str, level: int) -> Image.Image:
    """One near-copy, RGB. kind: of KINDS; level: 0..LEVELS - 1. Raises ValueError for any other."""
    if kind not in KINDS or not 0 <= level < LEVELS:
        raise ValueError(f"there is no near-copy {kind} {level}: kinds are {KINDS}, levels 0..{LEVELS - 1}")
    if kind == "reencoded":
        return _jpeg(image, _QUALITIES[level])
    if kind == "resized":
        size = tuple(max(1, round(side * _SCALES[level])) for side in image.size)
        return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if kind == "recoloured":
        return _turned(image, _HUE_DEGREES[level])
    if kind == "cropped":
        return _cropped(image, *_PLACES[level])
    return _jpeg(ImageOps.mirror(image), _QUALITIES[level])


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(degrees / 360 * 256)
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _cropped(image: Image.Image, from_left: float, from_top: float) -> Image.Image:
    width, height = image.size
    left, top = round(width * _CUT * from_left), round(height * _CUT * from_top)
    return image.crop((left, top, left + round(width * (1 - _CUT)), top + round(height * (1 - _CUT))))
