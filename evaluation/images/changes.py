"""Seeded changes to one work, for fitting policies and for the third draw of the benchmark.

The families follow the lists of the copy-detection literature: the Image Similarity Challenge (DISC21), AugLy and
AnyPattern. Those here may be fitted on, like the recipes for fitting and the distortions; those of `held_out` may not.
Each takes a strength from 1 (plainly the work) to 4 (hard to recognise) and a 256 x 256 square; lengths are in its
pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from evaluation.images import distortions, held_out
from evaluation.images.recipes import (
    KINDS,
    SIDE_PX,
    STRENGTHS,
    TEST_KINDS,
    derive,
    image_of,
    pixels_of,
    source_count,
    square,
    vivid,
)

_WHITE = (255, 255, 255)
_SIZE = (SIDE_PX, SIDE_PX)
Change = Callable[[int, Image.Image, random.Random], Image.Image]


def change(kind: str, strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Change one work, RGB, 256 x 256; the same arguments and generator state give the same pixels.

    kind: one of FIT_KINDS or THIRD_KINDS. strength: one of STRENGTHS. image: any mode and size. Raises ValueError for
    any other kind or strength.
    """
    if strength not in STRENGTHS or kind not in (*FIT_KINDS, *THIRD_KINDS):
        raise ValueError(
            f"no change {kind} of strength {strength}: kinds are {(*FIT_KINDS, *THIRD_KINDS)}, strengths 1-4"
        )
    if kind in _CHANGES:
        return _CHANGES[kind](strength, square(image), rng)
    if kind in distortions.KINDS:
        return distortions.distort(kind, strength, square(image), rng)
    return derive(kind, strength, [image], rng)


def _stretch(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Squeeze the image in one direction, on white."""
    short_px = round(SIDE_PX / (1.3, 1.6, 2.0, 2.6)[strength - 1] * (0.95 + 0.1 * rng.random()))
    upright = rng.random() < 0.5
    squeezed = image.resize((short_px, SIDE_PX) if upright else (SIDE_PX, short_px), Image.Resampling.BICUBIC)
    return _laid(squeezed, Image.new("RGB", _SIZE, _WHITE), rng)


def _page(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Shrink the image onto a page of one colour or of a gradient."""
    side_px = round((0.78, 0.64, 0.5, 0.38)[strength - 1] * SIDE_PX * (0.95 + 0.1 * rng.random()))
    corners = np.rint([vivid(rng.random()) * (0.4 + 0.6 * rng.random()) for _ in range(4)])
    colours = corners if rng.random() < 0.5 else corners[[0, 0, 0, 0]]
    page = Image.fromarray(colours.astype(np.uint8).reshape(2, 2, 3)).resize(_SIZE, Image.Resampling.BILINEAR)
    return _laid(image.resize((side_px, side_px), Image.Resampling.LANCZOS), page, rng)


def _laid(image: Image.Image, page: Image.Image, rng: random.Random) -> Image.Image:
    """Lay the image anywhere on the page."""
    x, y = (round(rng.random() * (SIDE_PX - length)) for length in image.size)
    page.paste(image, (x, y))
    return page


def _shear(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Slant the image to either side, or up or down, reduced so that all of it shows."""
    slant = (0.2, 0.35, 0.55, 0.8)[strength - 1] * (0.9 + 0.2 * rng.random()) * (1 if rng.random() < 0.5 else -1)
    scale = 1 + abs(slant)
    middle = SIDE_PX / 2
    shift = middle - middle * scale
    across = (scale, slant * scale, shift - slant * scale * middle, 0, scale, shift)
    down = (scale, 0, shift, slant * scale, scale, shift - slant * scale * middle)
    matrix = across if rng.random() < 0.5 else down
    return image.transform(_SIZE, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=_WHITE)


def _gamma(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Darken or lighten the middle tones by a power law."""
    exponent = (1.5, 2.1, 3.0, 4.5)[strength - 1] * (0.95 + 0.1 * rng.random())
    return image_of(255 * (pixels_of(image) / 255) ** (exponent if rng.random() < 0.5 else 1 / exponent))


def _saturation(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Make colours vivid, or pale down to a trace."""
    factors = (1.6, 2.4, 3.6, 6.0) if rng.random() < 0.5 else (0.6, 0.4, 0.25, 0.12)
    return ImageEnhance.Color(image).enhance(factors[strength - 1] * (0.95 + 0.1 * rng.random()))


def _sharpen(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Sharpen far too much: halos at every edge."""
    percent = (150, 300, 600, 1000)[strength - 1]
    return image.filter(ImageFilter.UnsharpMask(2 + 3 * rng.random(), percent, 0))


def _emboss(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Press the image into grey paper as a relief, over what is left of its colours."""
    share = (0.4, 0.65, 0.85, 1.0)[strength - 1]
    angle = 2 * math.pi * rng.random()
    down, across = np.gradient(pixels_of(image).mean(axis=2))
    relief = 128 + 3 * (math.cos(angle) * across + math.sin(angle) * down)
    return image_of((1 - share) * pixels_of(image) + share * relief[:, :, None])


def _dots(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Strew dots of random colour and size over the image."""
    result = image.copy()
    draw = ImageDraw.Draw(result)
    for _ in range((50, 130, 280, 520)[strength - 1]):
        x, y, radius = rng.random() * SIDE_PX, rng.random() * SIDE_PX, 2 + 4 * rng.random()
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(rng))
    return result


def _frame(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Put the image into a frame of three bands."""
    inside_px = SIDE_PX - 2 * round((0.06, 0.1, 0.15, 0.21)[strength - 1] * SIDE_PX)
    framed = image.resize((inside_px, inside_px), Image.Resampling.LANCZOS)
    border_px = (SIDE_PX - inside_px) // 2
    inner_px = round(border_px * (0.1 + 0.2 * rng.random()))
    middle_px = round(border_px * (0.3 + 0.3 * rng.random()))
    for width_px in (inner_px, middle_px, border_px - inner_px - middle_px):
        framed = ImageOps.expand(framed, width_px, fill=_colour(rng))
    return framed


def _salt(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Replace single pixels by black or white: salt and pepper."""
    share = (0.04, 0.1, 0.2, 0.35)[strength - 1]
    generator = np.random.default_rng(rng.getrandbits(64))
    chance = generator.random((SIDE_PX, SIDE_PX, 1))
    grain = np.where(generator.random((SIDE_PX, SIDE_PX, 1)) < 0.5, 0, 255)
    return image_of(np.where(chance < share, grain, pixels_of(image)))


def _tiles(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Cut the image into tiles and show each a little off its place."""
    count = (4, 5, 6, 8)[strength - 1]
    reach_px = (5.0, 9.0, 14.0, 20.0)[strength - 1]
    edges = [round(SIDE_PX * number / count) for number in range(count + 1)]
    result = Image.new("RGB", _SIZE, _WHITE)
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            x, y = (
                min(max(round(start + reach_px * (2 * rng.random() - 1)), 0), SIDE_PX - (end - start))
                for start, end in ((left, right), (top, bottom))
            )
            result.paste(image.crop((x, y, x + right - left, y + bottom - top)), (left, top))
    return result


def _scanlines(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Draw dark lines across the image as an old screen does, with rows that jitter."""
    period = (6, 5, 4, 4)[strength - 1]
    darkness = (0.35, 0.55, 0.75, 0.9)[strength - 1]
    generator = np.random.default_rng(rng.getrandbits(64))
    offsets = np.rint(generator.normal(0, (0.3, 0.8, 1.5, 2.5)[strength - 1], SIDE_PX)).astype(int)
    rows = np.stack([np.roll(row, offset, axis=0) for row, offset in zip(pixels_of(image), offsets, strict=True)])
    dark = (np.arange(SIDE_PX) + rng.randrange(period)) % period < period // 2
    lined = rows * (1 - darkness * dark[:, None, None])
    return image_of(lined)


def _negative(strength: int, image: Image.Image, rng: random.Random) -> Image.Image:
    """Turn the image into its negative, with less contrast as strength grows."""
    contrast = (1.0, 0.8, 0.6, 0.4)[strength - 1] * (0.95 + 0.05 * rng.random())
    ground = np.array([rng.random() for _ in range(3)]) * 255
    return image_of(contrast * (255 - pixels_of(image)) + (1 - contrast) * ground)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (rng.randrange(256) for _ in range(3))
    return red, green, blue


_FIT_FAMILIES: dict[str, Change] = {
    "stretch": _stretch,
    "page": _page,
    "shear": _shear,
    "gamma": _gamma,
    "saturation": _saturation,
    "sharpen": _sharpen,
    "emboss": _emboss,
    "dots": _dots,
    "frame": _frame,
    "salt": _salt,
    "tiles": _tiles,
    "scanlines": _scanlines,
    "negative": _negative,
}
_CHANGES: dict[str, Change] = {**_FIT_FAMILIES, **held_out.FAMILIES}

FIT_KINDS = (*(kind for kind in KINDS if source_count(kind) == 1), *distortions.KINDS, *_FIT_FAMILIES)
"""Changes of one work that anything may be fitted on."""

THIRD_KINDS = (*TEST_KINDS, *held_out.FAMILIES)
"""Changes of one work in the third draw, which nothing may be fitted on."""
