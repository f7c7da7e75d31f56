"""Vectors of the index benchmark, their exact nearest neighbours, and their intrinsic dimension.

The first vectors are embeddings of real images: pictures as they are, then image-level augmentations of each in turn.
If more are needed than were embedded, the rest is interpolated: a random mixture of three embeddings of augmentations
of the same picture, normalised. No vector is noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidInput
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.schema import KEY_DATA_SET, KEY_KEY
from gmvaluator.models.lite_views import VIEWS, pad_whole, weight_windows
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Float32Array, Point
from gmvaluator.profile import ProfileIdentity

MIXED = 3
"""Number of embeddings that are mixed into an interpolated vector."""

DATA_SET = "bench"
BLOCK = 2_048
"""Vectors that are generated from one seed."""

_SEED = 4
TIE = 1e-6
"""Cosines that differ by less count as equal."""

_ROWS, _QUERIES = 65_536, 512
"""Rows and queries of one matrix product."""

SAMPLE = 10_000
"""Vectors from which the intrinsic dimension is estimated."""

DISCARDED = 0.1
"""Share of the largest distance ratios that the estimate leaves out: they belong to outliers, as the authors advise."""

_DUPLICATE = 1e-4
"""Distance below which a neighbour is a duplicate."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """`count` recall vectors. The first len(real) are the embeddings `real` (R, D), of `pictures` pictures in turn."""

    real: Float32Array
    pictures: int
    count: int

    def __post_init__(self) -> None:
        if self.count > len(self.real) and self._members < MIXED:
            raise InvalidInput(
                f"{self.count:,} vectors of {self.pictures:,} pictures need {MIXED * self.pictures:,} embeddings at "
                f"least, to interpolate between: raise --embed"
            )

    @property
    def _members(self) -> int:
        """Number of embeddings of each picture."""
        return len(self.real) // self.pictures

    def rows(self, start: int, stop: int) -> Float32Array:
        """Return vectors `start` to `stop` - 1, (B, D) float32 of unit norm; a vector is the same in every range."""
        stop, real = min(stop, self.count), len(self.real)
        parts = [self.real[start:stop]]
        for block in range(max(start, real) // BLOCK, -(-stop // BLOCK)) if stop > real else ():
            first = block * BLOCK
            parts.append(self._mixed(first)[max(start, real, first) - first : stop - first])
        return np.concatenate(parts)

    def _mixed(self, first: int) -> Float32Array:
        """Return the interpolated vectors of the block that begins with number `first`."""
        random = np.random.default_rng((_SEED, first))
        pictures = np.arange(first, first + BLOCK) % self.pictures
        chosen = random.random((BLOCK, self._members)).argsort(axis=1)[:, :MIXED]
        rows = self.real[chosen * self.pictures + pictures[:, None]]
        return _unit(np.einsum("bmd,bm->bd", rows, random.dirichlet(np.ones(MIXED), BLOCK)))

    def all(self) -> Float32Array:
        """Return all vectors, (count, D)."""
        return self.rows(0, self.count)

    def blocks(self) -> Iterator[tuple[range, Float32Array]]:
        """Yield all vectors with their numbers, in blocks."""
        for start in range(0, self.count, BLOCK):
            numbers = range(start, min(start + BLOCK, self.count))
            yield numbers, self.rows(numbers.start, numbers.stop)

    def made_by(self) -> dict[str, Any]:
        """Return how many vectors were made in each way."""
        real = min(self.count, len(self.real))
        return {
            "pictures_as_they_are": min(real, self.pictures),
            "image_level_augmentations": max(0, real - self.pictures),
            "interpolated_between_augmentations_of_one_picture": self.count - real,
        }


def points_of(numbers: range, rows: Float32Array, profile: ProfileIdentity) -> list[Point]:
    """Return points as the index stores them, for the vectors `rows` with these numbers."""
    # Other views are other vectors of the block, weighted as windows: exact comparison takes the same time whatever
    # they show.
    views = _views(rows, profile.perceptual_views)
    return [
        Point(id_of(number), rows[row], views[row], {KEY_KEY: f"work {number}", KEY_DATA_SET: [DATA_SET]})
        for row, number in enumerate(numbers)
    ]


def _views(rows: Float32Array, count: int) -> Float32Array:
    if count == 1:
        return rows[:, None]
    others = [weight_windows(np.roll(rows, shift, axis=0)) for shift in range(1, count)]
    return np.stack([pad_whole(rows), *others], axis=1)


def bench_profile(views: int = VIEWS) -> ProfileIdentity:
    """Return profile `lite`; with views=1 its perceptual vector is its recall vector."""
    lite = profile_identity("lite")
    if views == lite.perceptual_views:
        return lite
    return ProfileIdentity(**{**lite.as_dict(), "perceptual_views": 1, "perceptual_dim": lite.recall_dim})


def id_of(number: int) -> TrainingImageId:
    """Return the id of a vector, whose integer value is its number."""
    return TrainingImageId(UUID(int=number))


def _unit(rows: npt.NDArray[np.float64]) -> Float32Array:
    unit: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def nearest(rows: Float32Array, queries: Float32Array, k: int) -> tuple[Numbers, Float32Array]:
    """Return the numbers and cosines, (Q, k), of the k rows most similar to each query, most similar first."""
    parts = [_nearest(rows, queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
    return np.concatenate([numbers for numbers, _ in parts]), np.concatenate([cosines for _, cosines in parts])


def _nearest(rows: Float32Array, queries: Float32Array, k: int) -> tuple[Numbers, Float32Array]:
    numbers = np.empty((len(queries), 0), np.int64)
    cosines = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows), _ROWS):
        block = queries @ rows[start : start + _ROWS].T
        best = np.argpartition(-block, min(k, block.shape[1]) - 1, axis=1)[:, :k]
        numbers = np.concatenate([numbers, best + start], axis=1)
        cosines = np.concatenate([cosines, np.take_along_axis(block, best, axis=1)], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(numbers, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def recalls(
    results: Sequence[Sequence[int]], rows: Float32Array, queries: Float32Array, kth_cosines: Float32Array, k: int
) -> Float32Array:
    """Return recall@k of each query, (Q,): the share of its first k distinct results that are as near as the true k-th.

    results: numbers of rows. kth_cosines: (Q,) cosine of the true k-th neighbour, compared with tolerance `TIE`.
    """
    hits = [
        np.count_nonzero(rows[list(dict.fromkeys(result))[:k]] @ query >= kth_cosine - TIE)
        for result, query, kth_cosine in zip(results, queries, kth_cosines, strict=True)
    ]
    return np.array(hits, dtype=np.float32) / np.float32(k)


def two_nn_dimension(rows: Float32Array, seed: int = 0) -> float:
    """Estimate the intrinsic dimension of `rows` by TwoNN (Facco et al., 2017, doi:10.1038/s41598-017-11873-y).

    For each of `SAMPLE` rows, µ = r2 / r1, the distances of its second and first neighbour. The dimension is the slope
    through the origin of -log(1 - F(µ)) against log µ. Exact duplicates are left out.
    """
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
    sample = rows[np.sort(chosen)]
    _, similarities = nearest(sample, sample, 3)
    ordered = np.sort(np.maximum(2 - 2 * similarities, 0) ** 0.5, axis=1)
    first, second = ordered[:, 1], ordered[:, 2]
    return _slope(np.sort((second / np.maximum(first, _DUPLICATE))[first > _DUPLICATE]))


def _slope(ratios: npt.NDArray[np.floating]) -> float:
    kept = int(len(ratios) * (1 - DISCARDED))
    logs = np.log(ratios[:kept])
    heights = -np.log(1 - np.arange(1, kept + 1) / len(ratios))
    return float((logs * heights).sum() / (logs * logs).sum())
