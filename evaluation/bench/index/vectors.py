"""As many vectors as are asked for, shaped as real ones are, and what they are made of.

The first are embeddings of real images: pictures as they are, then image-level augmentations of each in turn. Where
more are asked for than were embedded, the rest is interpolated: a random mixture of three embeddings of augmentations
of one and the same picture, back on the sphere. Nothing is noise.

Exact neighbours by plain numpy: what the index's answers are held against.

Intrinsic dimension: in how many directions a set of vectors really spreads.
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
"""Embeddings that an interpolated vector is made of."""

DATA_SET = "bench"
BLOCK = 2_048
_SEED = 4


@dataclass(frozen=True)
class Vectors:
    """count `recall` vectors; the first len(real) are embeddings, of `pictures` pictures in turn."""

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
        """Embeddings of each picture."""
        return len(self.real) // self.pictures

    def rows(self, start: int, stop: int) -> Float32Array:
        """Vectors start to stop, (B, D) float32 of unit norm; the same whatever block they are asked for in."""
        stop, real = min(stop, self.count), len(self.real)
        parts = [self.real[start:stop]]
        for block in range(max(start, real) // BLOCK, -(-stop // BLOCK)) if stop > real else ():
            first = block * BLOCK
            parts.append(self._mixed(first)[max(start, real, first) - first : stop - first])
        return np.concatenate(parts)

    def _mixed(self, first: int) -> Float32Array:
        """The vectors of the block that begins with number `first`, had none of them been embedded."""
        random = np.random.default_rng((_SEED, first))
        pictures = np.arange(first, first + BLOCK) % self.pictures
        chosen = random.random((BLOCK, self._members)).argsort(axis=1)[:, :MIXED]
        rows = self.real[chosen * self.pictures + pictures[:, None]]
        return _unit(np.einsum("bmd,bm->bd", rows, random.dirichlet(np.ones(MIXED), BLOCK)))

    def all(self) -> Float32Array:
        """(count, D)."""
        return self.rows(0, self.count)

    def blocks(self) -> Iterator[tuple[range, Float32Array]]:
        """All vectors with their numbers, some at a time."""
        for start in range(0, self.count, BLOCK):
            numbers = range(start, min(start + BLOCK, self.count))
            yield numbers, self.rows(numbers.start, numbers.stop)

    def made_by(self) -> dict[str, Any]:
        """How many are what."""
        real = min(self.count, len(self.real))
        return {
            "pictures_as_they_are": min(real, self.pictures),
            "image_level_augmentations": max(0, real - self.pictures),
            "interpolated_between_augmentations_of_one_picture": self.count - real,
        }


def points_of(numbers: range, rows: Float32Array, profile: ProfileIdentity) -> list[Point]:
    """Points as the index stores them. Views beyond the whole image are vectors of the same block, weighed as windows
    are: what is compared exactly takes the same time whatever it shows."""
    views = _views(rows, profile.perceptual_views)
    return [
        Point(id_of(number), rows[place], views[place], {KEY_KEY: f"work {number}", KEY_DATA_SET: [DATA_SET]})
        for place, number in enumerate(numbers)
    ]


def _views(rows: Float32Array, count: int) -> Float32Array:
    if count == 1:
        return rows[:, None]
    others = [weight_windows(np.roll(rows, shift, axis=0)) for shift in range(1, count)]
    return np.stack([pad_whole(rows), *others], axis=1)


def bench_profile(views: int = VIEWS) -> ProfileIdentity:
    """Profile `lite`; with one view, its recall vector is its perceptual one as well."""
    lite = profile_identity("lite")
    if views == lite.perceptual_views:
        return lite
    return ProfileIdentity(**{**lite.as_dict(), "perceptual_views": 1, "perceptual_dim": lite.recall_dim})


def id_of(number: int) -> TrainingImageId:
    """The id of a vector, from which its number can be read."""
    return TrainingImageId(UUID(int=number))


def _unit(rows: npt.NDArray[np.float64]) -> Float32Array:
    unit: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


TIE = 1e-6
_BLOCK = 65_536
_QUERIES = 512
Numbers = npt.NDArray[np.int64]


def nearest(rows: Float32Array, queries: Float32Array, k: int) -> tuple[Numbers, Float32Array]:
    """Numbers and cosines, (Q, k), of the k rows most similar to each query, most similar first."""
    found = [_nearest(rows, queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def _nearest(rows: Float32Array, queries: Float32Array, k: int) -> tuple[Numbers, Float32Array]:
    numbers = np.empty((len(queries), 0), np.int64)
    cosines = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = queries @ rows[start : start + _BLOCK].T
        most = np.argpartition(-block, min(k, block.shape[1]) - 1, axis=1)[:, :k]
        numbers = np.concatenate([numbers, most + start], axis=1)
        cosines = np.concatenate([cosines, np.take_along_axis(block, most, axis=1)], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(numbers, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def recalls(
    answers: Sequence[Sequence[int]], rows: Float32Array, queries: Float32Array, least: Float32Array, k: int
) -> Float32Array:
    """recall@k of each query: answers among its first k, no number twice, that are as near as the true k-th, over k.

    answers: numbers of rows. least: (Q,) cosine of the true k-th; as near means to a millionth.
    """
    hits = [
        np.count_nonzero(rows[list(dict.fromkeys(found))[:k]] @ query >= last - TIE)
        for found, query, last in zip(answers, queries, least, strict=True)
    ]
    return np.array(hits, dtype=np.float32) / np.float32(k)


SAMPLE = 10_000
DISCARDED = 0.1
"""Share of the largest ratios that is left out: they belong to outliers, as the authors advise."""

_COPY = 1e-4


def two_nn_dimension(rows: Float32Array, seed: int = 0) -> float:
    """The estimator TwoNN of Facco et al., 2017 (doi:10.1038/s41598-017-11873-y), over `SAMPLE` of the rows.

    For each, µ = r2 / r1, the distances of its second and first neighbour; the dimension is the slope through the
    origin of -log(1 - F(µ)) against log µ. Copies, at no distance, are left out.
    """
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
    sample = rows[np.sort(chosen)]
    _, similarities = nearest(sample, sample, 3)
    ordered = np.sort(np.maximum(2 - 2 * similarities, 0) ** 0.5, axis=1)
    first, second = ordered[:, 1], ordered[:, 2]
    return _slope(np.sort((second / np.maximum(first, _COPY))[first > _COPY]))


def _slope(ratios: npt.NDArray[np.floating]) -> float:
    kept = int(len(ratios) * (1 - DISCARDED))
    logs = np.log(ratios[:kept])
    heights = -np.log(1 - np.arange(1, kept + 1) / len(ratios))
    return float((logs * heights).sum() / (logs * logs).sum())
