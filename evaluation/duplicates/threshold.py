"""Precision and recall of near-duplicates at every threshold of the perceptual distance.

The copies come from recipes without a seed: a work always gives the same copies.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from evaluation.images.sample import Work
from gmvaluator.ports import Models

KINDS = ("reencoded", "resized", "recoloured", "cropped", "mirrored")
LEVELS = 5
"""Copies of each kind; together 25."""

_QUALITIES = (90, 75, 60, 45, 30)
_SCALES = (0.9, 0.8, 0.7, 0.6, 0.5)
_HUE_DEGREES = (-30, -15, 10, 20, 40)
_CUT = 0.1
"""Part of each side that a crop removes."""

_PLACES = ((0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1))
"""Where the cut is taken from: 0 right or below only, 1 left or above only, 0.5 from both sides."""


def near_copy(image: Image.Image, kind: str, level: int) -> Image.Image:
    """Make one near-duplicate, RGB. kind: of KINDS. level: 0..LEVELS - 1. Raises ValueError for any other."""
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


STEPS = tuple(round(0.01 * step, 2) for step in range(1, 41))
"""Thresholds that are compared."""

MIN_PRECISION = 0.998
"""Required against works of other owners, because merging two owners' works pays one of them for both."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distances:
    """Perceptual distances of works to their copies and to other works.

    copies: kind to (N,) distance of each work to its copy. others, own: (M,) between works of different owners and
    of one owner; all pairs, which are no copies of each other though some look alike.
    """

    copies: dict[str, Values]
    others: Values
    own: Values


@dataclass(frozen=True, slots=True)
class Point:
    """The effect of a threshold. recall: by kind, and of all. precision: against works of other owners, and of all."""

    threshold: float
    recall: dict[str, float]
    recall_all: float
    precision_other_owners: float
    precision_all: float


def measured(models: Models, works: Sequence[Work], images: Sequence[Image.Image]) -> Distances:
    """Embed the works and one copy of each kind; works take the levels in turn."""
    whole = _embedded(models, images)
    copies = {
        kind: 1 - (whole * _embedded(models, [near_copy(image, kind, place % LEVELS)
                                             for place, image in enumerate(images)])).sum(axis=1)
        for kind in KINDS
    }  # fmt: skip
    pairs = np.triu_indices(len(works), 1)
    owners = np.array([work.owner_id for work in works])
    same = owners[pairs[0]] == owners[pairs[1]]
    apart = 1 - (whole @ whole.T)[pairs]
    return Distances(copies, apart[~same], apart[same])


def _embedded(models: Models, images: Sequence[Image.Image]) -> Values:
    """Return (N, P) perceptual vectors of the whole images."""
    parts = []
    for start in range(0, len(images), 32):
        batch = [models.prepare(image, parts=False) for image in images[start : start + 32]]
        parts.append(models.embed(batch).perceptual[:, 0].astype(np.float64))
        print(f"embedded {start + len(batch):,}/{len(images):,}", end="\r", file=sys.stderr)  # noqa: T201
    print(file=sys.stderr)  # noqa: T201
    return np.concatenate(parts)


def curve(distances: Distances) -> list[Point]:
    """Return precision and recall at each of STEPS."""
    return [_point(distances, step) for step in STEPS]


def _point(distances: Distances, threshold: float) -> Point:
    counts = {kind: values <= threshold for kind, values in distances.copies.items()}
    right = sum(int(near.sum()) for near in counts.values())
    other = int((distances.others <= threshold).sum())
    own = int((distances.own <= threshold).sum())
    return Point(
        threshold,
        {kind: float(near.mean()) for kind, near in counts.items()},
        float(np.concatenate(list(counts.values())).mean()),
        right / max(right + other, 1),
        right / max(right + other + own, 1),
    )


def chosen(points: Sequence[Point]) -> Point:
    """Return the largest threshold with sufficient precision against other owners' works; the smallest if none has."""
    good = [point for point in points if point.precision_other_owners >= MIN_PRECISION]
    return max(good, key=lambda point: point.threshold, default=points[0])
