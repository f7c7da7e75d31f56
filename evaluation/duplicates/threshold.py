"""Which perceptual distance tells a near-copy from another work: precision and recall, at every threshold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluation.duplicates.copies import KINDS, LEVELS, near_copy
from evaluation.make_examples import Work
from gmvaluator.ports import Models

STEPS = tuple(round(0.01 * step, 2) for step in range(1, 41))
"""Thresholds that are compared."""

MIN_PRECISION = 0.998
"""Against works of other owners: to merge two owners' works pays one of them for the other's."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distances:
    """copies: kind to (N,) distance of each work to its copy. others, own: (M,) of works of different owners and of
    one owner; all pairs, the works being no copies of each other though some look it.
    """

    copies: dict[str, Values]
    others: Values
    own: Values


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold does. recall: by kind, and of all; precision: against works of other owners, and of all."""

    threshold: float
    recall: dict[str, float]
    recall_all: float
    precision_other_owners: float
    precision_all: float


def measured(models: Models, works: Sequence[Work], images: Sequence[Image.Image]) -> Distances:
    """Embed works and one copy of each kind; the levels take turns."""
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
    """(N, P) perceptual vectors of the whole images."""
    parts = []
    for start in range(0, len(images), 32):
        batch = [models.prepare(image) for image in images[start : start + 32]]
        parts.append(models.embed(batch).perceptual[:, 0].astype(np.float64))
        print(f"embedded {start + len(batch):,}/{len(images):,}", end="\r", file=sys.stderr)  # noqa: T201
    print(file=sys.stderr)  # noqa: T201
    return np.concatenate(parts)


def curve(distances: Distances) -> list[Point]:
    """Precision and recall at each of STEPS."""
    return [_point(distances, step) for step in STEPS]


def _point(distances: Distances, threshold: float) -> Point:
    found = {kind: values <= threshold for kind, values in distances.copies.items()}
    right = sum(int(one.sum()) for one in found.values())
    other = int((distances.others <= threshold).sum())
    own = int((distances.own <= threshold).sum())
    return Point(
        threshold,
        {kind: float(one.mean()) for kind, one in found.items()},
        float(np.concatenate(list(found.values())).mean()),
        right / max(right + other, 1),
        right / max(right + other + own, 1),
    )


def chosen(points: Sequence[Point]) -> Point:
    """The largest threshold whose precision against works of other owners is high enough; the smallest if none is."""
    good = [point for point in points if point.precision_other_owners >= MIN_PRECISION]
    return max(good, key=lambda point: point.threshold, default=points[0])
