"""Verification that an image shows a work: matches of local features that agree on one position of the work.

Each keypoint of the image is matched with the work's keypoint of the nearest descriptor, if that is clearly nearer than
the second (Lowe's ratio test). A match alone fixes a similarity transform, because keypoints have a size and a
direction, so that every match proposes one and the others vote: the best proposals are refined by least squares. There
is no random choice, and equal inputs give equal results. Mirrored images are matched by mirrored descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmvaluator.keypoints import LocalFeatures

RATIO = 0.8
"""Largest distance of the nearest descriptor as a multiple of that of the second nearest."""

MAX_DESCRIPTOR_DISTANCE = 0.9
"""Largest distance of two descriptors of unit norm."""

TOLERANCE = 6 / 512
"""Largest error of an inlier's position, as a share of the image's side."""

MIN_INLIERS = 5
"""Fewest inliers that verify a work."""

_SQUARED_NORM = 127**2
"""Squared norm of a stored descriptor, whose numbers are bytes."""

_MIN_SCALE, _MAX_SCALE = 0.12, 8.0
_PROPOSALS = 5
_ROUNDS = 3
_DISTINCT_STEPS = 128
"""Places across an image that count as distinct: many matches of one spot are one inlier."""

Complex = npt.NDArray[np.complex128]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Verified:
    """A verified position of a work in an image.

    inliers: matches at distinct places of both. scale: complex factor, its angle is the rotation; shift: complex. A
    point of the work, x + iy in [0, 1], is at scale · point + shift in the image, mirrored in x if `mirrored`. points:
    the inliers' positions in the image; work_points: in the work.
    """

    inliers: int
    scale: complex
    shift: complex
    mirrored: bool
    points: Complex
    work_points: Complex

    def in_image(self, points: Complex) -> Complex:
        """Return where points of the work are in the image."""
        placed = self.scale * points + self.shift
        return _mirror(placed) if self.mirrored else placed

    def in_work(self, points: Complex) -> Complex:
        """Return where points of the image are in the work."""
        placed = _mirror(points) if self.mirrored else points
        return np.asarray((placed - self.shift) / self.scale)


def verify(image: LocalFeatures, work: LocalFeatures) -> Verified | None:
    """Return the best position of `work` in `image`, which has `mirrored` descriptors; None if it is not verified."""
    if min(len(image), len(work)) < MIN_INLIERS:
        return None
    sides = [verified for verified in _sides(image, work) if verified is not None]
    return max(sides, key=lambda verified: verified.inliers, default=None)


def _sides(image: LocalFeatures, work: LocalFeatures) -> Iterator[Verified | None]:
    positions = _complex(image.positions)
    turns = np.exp(1j * image.angles)
    yield _position(image, work, image.descriptors, positions, turns, False)
    if len(image.mirrored):
        # The mirror turns x into 1 - x, and the direction a into π - a.
        yield _position(image, work, image.mirrored, _mirror(positions), -turns.conj(), True)


def _position(
    image: LocalFeatures,
    work: LocalFeatures,
    descriptors: npt.NDArray[np.int8],
    positions: Complex,
    turns: Complex,
    mirrored: bool,
) -> Verified | None:
    rows, partners = _matches(descriptors, work.descriptors)
    if len(rows) < MIN_INLIERS:
        return None
    points, work_points = positions[rows], _complex(work.positions)[partners]
    scales = image.sizes[rows] / work.sizes[partners] * turns[rows] * np.exp(-1j * work.angles[partners])
    scale, shift, inliers = _agreed(points, work_points, scales)
    count = _distinct(points[inliers], work_points[inliers])
    if count < MIN_INLIERS:
        return None
    shown = points[inliers]
    return Verified(count, scale, shift, mirrored, _mirror(shown) if mirrored else shown, work_points[inliers])


def _matches(descriptors: npt.NDArray[np.int8], others: npt.NDArray[np.int8]) -> tuple[Indices, Indices]:
    """Return rows of `descriptors`, and of `others` the nearest of each, for those that pass the ratio test."""
    # Sums of products of bytes are whole numbers below 2^24, which float32 adds exactly in any order: the matches are
    # the same with every processor and number of threads.
    products = descriptors.astype(np.float32) @ others.astype(np.float32).T
    rows = np.arange(len(products))
    partners = products.argmax(axis=1)
    nearest = products[rows, partners]
    products[rows, partners] = -_SQUARED_NORM
    second = products.max(axis=1)
    # Halves of squared distances, because a root would round.
    near, far = (np.maximum(_SQUARED_NORM - product.astype(np.float64), 0) for product in (nearest, second))
    kept = (near < RATIO**2 * far) & (2 * near < MAX_DESCRIPTOR_DISTANCE**2 * _SQUARED_NORM)
    return rows[kept], partners[kept]


def _agreed(points: Complex, work_points: Complex, scales: Complex) -> tuple[complex, complex, Indices]:
    """Return the similarity transform that most matches agree on, with these matches."""
    shifts = points - scales * work_points
    errors = np.abs(scales[:, None] * work_points + shifts[:, None] - points)
    # One keypoint's size and direction are rough: proposals are counted with a wide tolerance.
    votes = errors < 4 * TOLERANCE
    best: tuple[complex, complex, Indices] = (1.0, 0.0, np.empty(0, np.intp))
    for proposal in np.argsort(-votes.sum(axis=1), kind="stable")[:_PROPOSALS]:
        refined = _refined(points, work_points, np.flatnonzero(votes[proposal]))
        if refined is not None and len(refined[2]) > len(best[2]):
            best = refined
    return best


def _refined(points: Complex, work_points: Complex, inliers: Indices) -> tuple[complex, complex, Indices] | None:
    """Fit the transform to its inliers by least squares, and count them again, with a tolerance that narrows."""
    scale, shift = 1 + 0j, 0j
    for step in range(_ROUNDS):
        if len(inliers) < MIN_INLIERS:
            return None
        centre, work_centre = points[inliers].mean(), work_points[inliers].mean()
        offsets = work_points[inliers] - work_centre
        spread = float((np.abs(offsets) ** 2).sum())
        if spread < 1e-9:
            return None
        scale = complex(((points[inliers] - centre) * offsets.conj()).sum() / spread)
        shift = complex(centre - scale * work_centre)
        tolerance = TOLERANCE if step == _ROUNDS - 1 else 2 * TOLERANCE
        inliers = np.flatnonzero(np.abs(scale * work_points + shift - points) < tolerance)
    return (scale, shift, inliers) if _MIN_SCALE < abs(scale) < _MAX_SCALE else None


def _distinct(points: Complex, work_points: Complex) -> int:
    return min(len(np.unique(np.rint(side.real * _DISTINCT_STEPS) + 1j * np.rint(side.imag * _DISTINCT_STEPS)))
               for side in (points, work_points))  # fmt: skip


def _complex(positions: npt.NDArray[np.float32]) -> Complex:
    return positions[:, 0].astype(np.float64) + 1j * positions[:, 1]


def _mirror(points: Complex) -> Complex:
    return np.asarray(1 - points.conj())
