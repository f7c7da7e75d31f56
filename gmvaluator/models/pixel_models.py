"""A composed profile whose re-ranking compares pixels: its perceptual features are made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmvaluator.models.composed import ComposedModels
from gmvaluator.ports import Embeddings, Prepared, WorkEmbeddings


class PixelComparingModels(ComposedModels):
    """As `ComposedModels`, but `embed`'s perceptual rows are features of any length and norm.

    Their squared distance is the perceptual distance. The index holds the recall vector in their place. An image of
    which only the features are wanted has an empty recall input; its recall row is zeros.
    """

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """See the class. Raises ModelFailed, naming the row."""
        wanted = [row for row, one in enumerate(inputs) if one.recall.size]
        recall = np.zeros((len(inputs), self.identity.recall_dim), np.float32)
        if wanted:
            recall[wanted] = self.recall_rows([inputs[row] for row in wanted])
        quality = np.ones(len(inputs), np.float32) if self._quality is None else None
        return Embeddings(recall, self.perceptual_rows(inputs), quality)

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Training images to recall vectors, twice. Raises ModelFailed, naming the row."""
        recall = self.recall_rows([whole for (whole,) in inputs])
        return WorkEmbeddings(recall, recall[:, np.newaxis].copy())
