"""Models without weights for tests: colours as embeddings. Fast, deterministic, and near for similar images.

models = FakeModels()
recall = models.embed([models.prepare(image)]).recall  # (1, 64)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity

SIDE_PX = 8
VIEWS = 2

FAKE_IDENTITY = ProfileIdentity(
    name="fake",
    recall_model="mean colours of a 4 x 4 grid",
    perceptual_model="pixels of an 8 x 8 grid",
    quality_model="mean brightness",
    recall_dim=64,
    perceptual_dim=192,
    precision="fp32",
    weights={},
    perceptual_views=VIEWS,
)


class FakeModels:
    """`ports.Models` for tests; quality is the mean brightness.

    separate_quality: `embed` returns no quality, as profiles with a quality model do. on_batch: called with each batch
    (B, 3, 8, 8); may raise or wait. batches: size of each batch that was embedded.
    """

    def __init__(self, separate_quality: bool = False, on_batch: Callable[[Float32Array], None] | None = None) -> None:
        self._separate_quality = separate_quality
        self.on_batch = on_batch
        self.batches: list[int] = []

    @property
    def identity(self) -> ProfileIdentity:
        return FAKE_IDENTITY

    def prepare(self, image: Image.Image, parts: bool = True) -> Prepared:  # noqa: ARG002 - it looks at no parts
        """Turn an RGB image into (3, 8, 8) float32 in [0, 1]."""
        small = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
        return Prepared.shared(np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255))

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B images as unit vectors of 64 and 192 dimensions."""
        self.batches.append(len(inputs))
        rows = _stacked(inputs)
        if self.on_batch is not None:
            self.on_batch(rows)
        blocks = rows.reshape(len(rows), 3, 4, 2, 4, 2).mean(axis=(3, 5)).reshape(len(rows), -1)
        padded = np.pad(blocks + 0.01, ((0, 0), (0, 64 - blocks.shape[1])))
        quality = None if self._separate_quality else self._brightness(rows)
        return Embeddings(_unit(padded), self._perceptual(rows)[:, None], quality)

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """Turn an RGB image into two views: the whole, and its upper left quarter."""
        quarter = image.crop((0, 0, max(image.width // 2, 1), max(image.height // 2, 1)))
        return [self.prepare(image), self.prepare(quarter)]

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Embed B images of two views as unit vectors of 64 and 192 dimensions."""
        views = [self._perceptual(_stacked([work[place] for work in inputs])) for place in range(VIEWS)]
        return WorkEmbeddings(self.embed([work[0] for work in inputs]).recall, np.stack(views, axis=1))

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Score B images: (B,) in [0, 1]."""
        return self._brightness(_stacked(inputs))

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """Score all images at once."""
        return [float(quality) for quality in self.quality(inputs)]

    def _perceptual(self, rows: Float32Array) -> Float32Array:
        return _unit(rows.reshape(len(rows), -1) + 0.01)

    def _brightness(self, rows: Float32Array) -> Float32Array:
        brightness: Float32Array = rows.mean(axis=(1, 2, 3), dtype=np.float32)
        if not np.isfinite(brightness).all():
            raise ModelFailed("a row is not finite")
        return brightness


def _stacked(inputs: Sequence[Prepared]) -> Float32Array:
    stacked: Float32Array = np.stack([prepared.recall for prepared in inputs])
    return stacked


def _unit(rows: Float32Array) -> Float32Array:
    unit: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
