"""Quality by the head of profile `lite`, for profiles of other models.

Input: (3, 224, 224) float32 in [-1, 1], the whole image on white. Output: one quality an image in [0, 1], higher is
better. It knows drawings; see docs/models.md for what it was trained on. Source: `lite`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import safetensors.torch
from PIL import Image
from torch import nn

from gmvaluator.models.folder import ModelsFolder
from gmvaluator.models.lite_input import prepare, to_tensor
from gmvaluator.models.lite_network import Backbone, Heads
from gmvaluator.models.parts.part import Part
from gmvaluator.models.preparation import Pixels
from gmvaluator.models.runtime import Runtime


class LiteQuality:
    """`composed.QualityModel`; a batch is one pass."""

    def __init__(self, backbone: nn.Module, heads: nn.Module, runtime: Runtime) -> None:
        self._backbone, self._heads = backbone.to(runtime.device), heads.to(runtime.device)
        self._device = runtime.device

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """See the protocol; nothing is left for another slice."""
        _, quality = self._heads(self._backbone(to_tensor(np.stack(inputs), self._device)))
        return [float(one) for one in quality]


class LitePreparer:
    """`preparation.Preparer`."""

    square_resize = None

    def __call__(self, image: Image.Image) -> Pixels:
        return prepare(image)


def lite_quality_preparer(part: Part) -> LitePreparer:  # noqa: ARG001 - there is but one
    """See `preparation.preparation_of`."""
    return LitePreparer()


def load_lite_quality(part: Part, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> LiteQuality:
    """See `paper.load`. Raises MissingWeights."""
    backbone, heads = (safetensors.torch.load_file(folder.verified(file, hashes[file.role])) for file in part.files)
    return LiteQuality(Backbone(backbone, runtime.precision), Heads(heads), runtime)
