"""Profile `stub`: models of a fixed cost that need no weights, to measure and to strain the service around them.

`stub:batch_ms=20,image_ms=1` spends 20 ms on a batch and 1 ms on each of its images, asleep, as a device would be from
its process's point of view. `apart=1`: quality is a model of its own.
`fragile=1`: a black image ends their process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from gmvaluator.errors import UnknownProfile
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity

SIDE_PX = 8
EMBEDDING_DIM = 512

IDENTITY = ProfileIdentity(
    name="stub",
    recall_model="random projection of a 8 x 8 thumbnail",
    perceptual_model="another one",
    quality_model="mean brightness",
    recall_dim=EMBEDDING_DIM,
    perceptual_dim=EMBEDDING_DIM,
    precision="fp32",
    weights={},
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stub does beside answering; see the module."""

    batch_ms: float = 0.0
    image_ms: float = 0.0
    apart: float = 0.0
    fragile: float = 0.0


class StubModels:
    """`ports.Models`: the same image gives the same vectors, in any batch."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        random = np.random.default_rng(7)
        self._projections = random.normal(size=(2, 3 * SIDE_PX * SIDE_PX, EMBEDDING_DIM))

    @property
    def identity(self) -> ProfileIdentity:
        return IDENTITY

    def prepare(self, image: Image.Image) -> Prepared:
        """RGB image to (3, 8, 8) float32 in [0, 1]."""
        return prepare(image)

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """B images to two unit vectors of 512 dimensions, and brightness as quality."""
        stacked = np.stack([one.recall for one in inputs])
        if self._cost.fragile and not stacked.any():
            os._exit(9)
        time.sleep((self._cost.batch_ms + self._cost.image_ms * len(inputs)) / 1000)
        pixels = stacked.reshape(len(stacked), -1).astype(np.float64) + 0.01
        # One row at a time: a product of matrices may round a row by the others beside it.
        recall, perceptual = (np.stack([_unit(row @ matrix) for row in pixels]) for matrix in self._projections)
        return Embeddings(recall, perceptual[:, None], None if self._cost.apart else _brightness(stacked))

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """RGB image to its one view."""
        return [prepare(image)]

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """B images of one view to unit vectors of 512 dimensions."""
        found = self.embed([view for (view,) in inputs])
        return WorkEmbeddings(found.recall, found.perceptual)

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """B images to (B,) float32 in [0, 1]."""
        return _brightness(np.stack([one.quality for one in inputs]))

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """All at once."""
        return [float(one) for one in self.quality(inputs)]


def _brightness(stacked: Float32Array) -> Float32Array:
    brightness: Float32Array = stacked.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
    return brightness


def prepare(image: Image.Image) -> Prepared:
    """What `StubModels.prepare` does."""
    small = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    return Prepared.shared(np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255))


def cost_of(options: str) -> Cost:
    """`batch_ms=20,image_ms=1` read. Raises UnknownProfile."""
    cost = Cost()
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        try:
            cost = replace(cost, **{name: float(value)})
        except (TypeError, ValueError) as error:
            raise UnknownProfile(f"profile stub has no option {option!r}: give NAME=NUMBER of {cost}") from error
    return cost


def load(options: str) -> StubModels:
    """The models that `options` describes. Raises UnknownProfile."""
    return StubModels(cost_of(options))


def _unit(row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Float32Array:
    unit: Float32Array = (row / np.linalg.norm(row)).astype(np.float32)
    return unit
