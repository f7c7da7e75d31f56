"""Models of a fixed cost without weights: profile `stub`, for load tests of the programs that call models.

    gmvaluator index add FOLDER --profile stub
    gmvaluator serve --profile stub:batch_ms=20,image_ms=1

`batch_ms` and `image_ms`: time that a batch and each of its images take, asleep, as if a device computed. `apart=1`:
quality is a model of its own. `fragile=1`: a black image ends the models' process.
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
    """Options of the stub; see the module."""

    batch_ms: float = 0.0
    image_ms: float = 0.0
    apart: float = 0.0
    fragile: float = 0.0


class StubModels:
    """Models (`ports.Models`) of a fixed cost; the same image gives the same vectors, in any batch."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        random = np.random.default_rng(7)
        self._projections = random.normal(size=(2, 3 * SIDE_PX * SIDE_PX, EMBEDDING_DIM))

    @property
    def identity(self) -> ProfileIdentity:
        return IDENTITY

    def prepare(self, image: Image.Image, parts: bool = True) -> Prepared:
        """Turn an RGB image into (3, 8, 8) float32 in [0, 1]."""
        return prepare(image, parts)

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B images as two unit vectors of 512 dimensions, with brightness as quality."""
        stacked = np.stack([prepared.recall for prepared in inputs])
        if self._cost.fragile and not stacked.any():
            os._exit(9)  # As a crash in native code would: no exception handler runs.
        time.sleep((self._cost.batch_ms + self._cost.image_ms * len(inputs)) / 1000)
        pixels = stacked.reshape(len(stacked), -1).astype(np.float64) + 0.01
        # One row at a time: the rounding of a row in a matrix product may depend on the other rows.
        recall, perceptual = (np.stack([_unit(row @ matrix) for row in pixels]) for matrix in self._projections)
        return Embeddings(recall, perceptual[:, None], None if self._cost.apart else _brightness(stacked))

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """Turn an RGB image into its only view."""
        return [prepare(image)]

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Embed B images of one view as unit vectors of 512 dimensions."""
        embeddings = self.embed([view for (view,) in inputs])
        return WorkEmbeddings(embeddings.recall, embeddings.perceptual)

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Score B images: (B,) float32 in [0, 1]."""
        return _brightness(np.stack([prepared.quality for prepared in inputs]))

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """Score all images at once."""
        return [float(quality) for quality in self.quality(inputs)]


def _brightness(stacked: Float32Array) -> Float32Array:
    brightness: Float32Array = stacked.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
    return brightness


def prepare(image: Image.Image, parts: bool = True) -> Prepared:  # noqa: ARG001 - it looks at no parts
    """Turn an RGB image into (3, 8, 8) float32 in [0, 1]; needs no models."""
    small = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    return Prepared.shared(np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255))


def cost_of(options: str) -> Cost:
    """Parse options such as `batch_ms=20,image_ms=1`. Raises UnknownProfile."""
    cost = Cost()
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        try:
            cost = replace(cost, **{name: float(value)})
        except (TypeError, ValueError) as error:
            raise UnknownProfile(f"profile stub has no option {option!r}: give NAME=NUMBER of {cost}") from error
    return cost


def load(options: str) -> StubModels:
    """Return models with these options. Raises UnknownProfile."""
    return StubModels(cost_of(options))


def _unit(row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Float32Array:
    unit: Float32Array = (row / np.linalg.norm(row)).astype(np.float32)
    return unit
