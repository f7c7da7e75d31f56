"""The shipped weights of profile `lite`, and the heads on its backbone's features; imports no torch.

Backbone (`data/lite-backbone.safetensors`) and heads (`data/lite.safetensors`) were fitted by
`evaluation.training.fit_lite`; `data/lite.LICENSE.md` lists what they are made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from gmvaluator.local_features.detection import Detector
from gmvaluator.models.specs import DATA, shipped_identity
from gmvaluator.models.weight_files import read_pinned
from gmvaluator.ports import Float32Array
from gmvaluator.profile import ProfileIdentity

BACKBONE_FILE = "lite-backbone.safetensors"
HEADS_FILE = "lite.safetensors"
LOCAL_FEATURES_FILE = "local-features.safetensors"
LOCAL_FEATURES_ROLE = "local features"
_REMEDY = "reinstall gmvaluator"
STAGE_BLOCKS = (0, 1, 2, 4, 6)
"""Blocks that end a resolution, with 16, 24, 40, 112 and 320 channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input."""

HEAD_TENSORS = (
    "embedding_shift",
    "embedding_scale",
    "embedding_projection",
    "embedding_bias",
    "quality_shift",
    "quality_scale",
    "quality_hidden",
    "quality_hidden_bias",
    "quality_output",
    "quality_output_bias",
)
"""Names of the tensors in `data/lite.safetensors`."""

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Features:
    """The backbone's features of B images, float32: the inputs of the heads.

    pooled (B, 1752): mean of each channel of the last three stages and of the last layer. texture (B, 1024): mean and
    standard deviation of each channel of all five stages.
    """

    pooled: Float32Array
    texture: Float32Array


class Heads:
    """A linear embedding and a two-layer quality head.

    embedding: ((x - shift) / scale) @ projection + bias, scaled to unit norm. quality: sigmoid of a 64-unit hidden
    layer on standardised texture. Both compute in float64, so that the order in which a batch's sums are taken does
    not change the float32 result.
    """

    def __init__(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self._tensors = {name: tensors[name].astype(np.float64) for name in HEAD_TENSORS}

    def __call__(self, features: Features) -> tuple[Float32Array, Float32Array]:
        """Compute the embeddings (B, 512) and the qualities (B,), both float32, from the features of B images."""
        return self.embedding(features.pooled.astype(np.float64)), self._quality(features.texture.astype(np.float64))

    def embedding(self, pooled: _Float64) -> Float32Array:
        """Compute embeddings, (N, 512), from `Features.pooled` of images or of windows, (N, 1752)."""
        standard = self._standard("embedding", pooled)
        projected = standard @ self._tensors["embedding_projection"] + self._tensors["embedding_bias"]
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.asarray((projected / norms).astype(np.float32))

    def _standard(self, head: str, values: _Float64) -> _Float64:
        return np.asarray((values - self._tensors[f"{head}_shift"]) / self._tensors[f"{head}_scale"])

    def _quality(self, texture: _Float64) -> Float32Array:
        standard = self._standard("quality", texture)
        hidden = _gelu(standard @ self._tensors["quality_hidden"] + self._tensors["quality_hidden_bias"])
        logits = hidden @ self._tensors["quality_output"] + self._tensors["quality_output_bias"]
        return (1 / (1 + np.exp(-logits))).astype(np.float32)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(values: _Float64) -> _Float64:
    return np.asarray(values * 0.5 * (1 + _erf(values / math.sqrt(2))))


def shipped_detector() -> Detector:
    """Return the detector of local features, which all profiles share. Raises MissingWeights."""
    return load_detector(shipped_identity())


def load_detector(identity: ProfileIdentity) -> Detector:
    """Return the detector of local features whose weights `identity` pins. Raises MissingWeights."""
    return Detector(pinned_tensors(LOCAL_FEATURES_FILE, identity.weights[LOCAL_FEATURES_ROLE]))


def pinned_tensors(file_name: str, sha256: str) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a shipped file; those stored in half precision stay so. Raises MissingWeights."""
    return safetensors.numpy.load(read_pinned(DATA / file_name, sha256, _REMEDY))


BLUR_SIGMA_PX = 3.5
"""Standard deviation of the blur of a generated image's second view, at the networks' input size."""

_BLUR_RADIUS_PX = math.ceil(3 * BLUR_SIGMA_PX)


def blur(images: Float32Array) -> Float32Array:
    """Blur (B, C, H, W) by a Gaussian of `BLUR_SIGMA_PX`; pixels beyond the edge repeat it."""
    margins = (_BLUR_RADIUS_PX, _BLUR_RADIUS_PX)
    padded = np.pad(images, ((0, 0), (0, 0), margins, margins), mode="edge")
    # Two passes in one dimension each: the kernel is separable.
    down = sum(weight * padded[:, :, row : row + images.shape[2]] for row, weight in enumerate(_blur_weights()))
    across = (weight * down[..., column : column + images.shape[3]] for column, weight in enumerate(_blur_weights()))
    return np.asarray(sum(across))


def _blur_weights() -> Float32Array:
    steps = np.arange(-_BLUR_RADIUS_PX, _BLUR_RADIUS_PX + 1)
    weights = np.exp(-0.5 * (steps / BLUR_SIGMA_PX) ** 2)
    return np.asarray((weights / weights.sum()).astype(np.float32))
