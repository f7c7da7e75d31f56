"""The slow plain twin: the paper's pipeline as one would write it down, without storing perceptual vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.digits.embedding import whole_view
from evaluation.digits.pictures import Pictures, to_image
from gmvaluator.models.lite import LiteModels
from gmvaluator.ports import Float32Array, Models, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

_LISTS = 16
_PROBES = 8
_BITS = 8
_CODES = 32
_SMALL_BITS = 4
_SMALL = 10_000
_BATCH_PAIRS = 8


class PlainPipeline:
    """FAISS IVFPQ over recall vectors, then the distance of each pair by a pass of both its pictures."""

    pairs = 50
    """Re-ranked, as many as are paid."""

    def __init__(self, models: Models, pictures: Pictures, recall: Float32Array) -> None:
        """pictures: (N, 28, 28), of which `recall` (N, D) are the vectors."""
        import faiss

        self._models = models
        self._pictures = pictures
        bits = _BITS if len(recall) >= _SMALL else _SMALL_BITS  # fewer centroids for fewer points
        lists = min(_LISTS, max(len(recall) // 40, 1))
        quantiser = faiss.IndexFlatIP(recall.shape[1])
        self._index: Any = faiss.IndexIVFPQ(quantiser, recall.shape[1], lists, _CODES, bits, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.min_points_per_centroid = self._index.pq.cp.min_points_per_centroid = 1
        self._index.train(recall)
        self._index.add(recall)
        self._index.nprobe = _PROBES

    def value(self, image: Image) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Rows of the contributors, nearest first, and their values (equation 4)."""
        row = self._models.embed([self._models.prepare(image)])
        _, found = self._index.search(row.recall, self.pairs)
        works = found[0][found[0] >= 0]
        distances = np.concatenate(
            [self._pairs(image, works[start : start + _BATCH_PAIRS]) for start in range(0, len(works), _BATCH_PAIRS)]
        )
        order = np.argsort(distances, kind="stable")
        weights = np.exp(-distances[order])
        quality = 1.0 if row.quality is None else float(row.quality[0])
        return works[order], quality * weights / weights.sum()

    def _pairs(self, image: Image, works: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Perceptual distances of the image to each work, both embedded anew for every pair."""
        pairs = [(image, to_image(self._pictures[work])) for work in works]
        vectors = self._seen_whole([self._models.prepare(one) for pair in pairs for one in pair]).astype(np.float64)
        return np.asarray(1 - (vectors[0::2] * vectors[1::2]).sum(axis=1))

    def _seen_whole(self, inputs: Sequence[Prepared]) -> Float32Array:
        """(B, P). `lite` is not charged for its blurred views, which pairs do not need; other profiles have none."""
        if isinstance(self._models, LiteModels):
            return self._models.embed_whole(inputs)
        return whole_view(self._models.embed(inputs).perceptual)
