"""The networks of profile `lite`: an adapted EfficientNet-Lite0 and two small heads, with their shipped weights.

Backbone (`data/lite-backbone.safetensors`) and heads (`data/lite.safetensors`) were fitted by
`evaluation.training.fit_lite`; `data/lite.LICENSE.md` lists what they are made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.models.fast_layers import DTYPES
from gmvaluator.models.folding import fold
from gmvaluator.models.specs import DATA
from gmvaluator.models.weight_files import read_pinned
from gmvaluator.ports import Float32Array
from gmvaluator.profile import ProfileIdentity

BACKBONE_FILE = "lite-backbone.safetensors"
HEADS_FILE = "lite.safetensors"
_REMEDY = "reinstall gmvaluator"
STAGE_BLOCKS = (0, 1, 2, 4, 6)
"""Blocks that end a resolution, with 16, 24, 40, 112 and 320 channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input."""


@dataclass(frozen=True, slots=True)
class Features:
    """The backbone's features of B images, float32: the inputs of the heads.

    pooled (B, 1752): mean of each channel of the last three stages and of the last layer. texture (B, 1024): mean and
    standard deviation of each channel of all five stages.
    """

    pooled: Tensor
    texture: Tensor


class Backbone(nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self, state: Mapping[str, Tensor], precision: str = "fp32") -> None:
        """Build the network in eval mode.

        state: the 294 tensors of timm's `tf_efficientnet_lite0` without its classifier, by its names. precision: a
        key of `fast_layers.DTYPES`, what convolutions compute in.
        """
        super().__init__()
        self.dtype = DTYPES[precision]
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        net.load_state_dict(state)
        fold(net.eval(), self.dtype)
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        self.blocks: nn.Sequential = net.blocks
        self.last = nn.Sequential(net.conv_head, net.bn2)
        self.eval()

    def forward(self, inputs: Tensor) -> Features:
        """Compute the features of (B, 3, 224, 224) float32 in [-1, 1]."""
        hidden = self.stem(inputs.to(self.dtype))
        stages = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in STAGE_BLOCKS:
                stages.append(hidden.float())
        moments = [_moments(stage) for stage in stages]
        means = [mean for mean, _ in moments[-3:]]
        texture = torch.cat([values for pair in moments for values in pair], dim=1)
        return Features(torch.cat([*means, self.last(hidden).float().mean(dim=(2, 3))], dim=1), texture)


def _moments(stage: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of (B, C, H, W), both (B, C)."""
    pixels = stage.permute(0, 2, 3, 1).flatten(1, 2)  # A view, because channels come last: (B, H W, C).
    mean = pixels.mean(dim=1)
    deviation = pixels - mean[:, None]
    return mean, (deviation * deviation).mean(dim=1).sqrt()


class Heads(nn.Module):
    """A linear embedding and a two-layer quality head.

    embedding: ((x - shift) / scale) @ projection + bias, scaled to unit norm. quality: sigmoid of a 64-unit hidden
    layer on standardised texture. Both compute in float64, so that the order in which a batch's sums are taken does
    not change the float32 result.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in HEAD_TENSORS:
            self.register_buffer(name, tensors[name].to(torch.float64))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Compute the embeddings (B, 512) and the qualities (B,), both float32, from the features of B images."""
        return self._embedding(features.pooled.double()), self._quality(features.texture.double())

    def _embedding(self, pooled: Tensor) -> Tensor:
        standard = self._standard("embedding", pooled)
        projected = standard @ self.get_buffer("embedding_projection") + self.get_buffer("embedding_bias")
        return functional.normalize(projected, dim=1).float()

    def _standard(self, head: str, values: Tensor) -> Tensor:
        return (values - self.get_buffer(f"{head}_shift")) / self.get_buffer(f"{head}_scale")

    def _quality(self, texture: Tensor) -> Tensor:
        standard = self._standard("quality", texture)
        hidden = functional.gelu(standard @ self.get_buffer("quality_hidden") + self.get_buffer("quality_hidden_bias"))
        logits = hidden @ self.get_buffer("quality_output") + self.get_buffer("quality_output_bias")
        return torch.sigmoid(logits).float()


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


def load_backbone(identity: ProfileIdentity) -> Backbone:
    """Load the backbone with its pinned weights. Raises MissingWeights."""
    return Backbone(pinned_tensors(BACKBONE_FILE, identity.weights["backbone"]), identity.precision)


def pinned_tensors(file_name: str, sha256: str) -> dict[str, Tensor]:
    """Read the tensors of a shipped file; those stored in half precision stay so. Raises MissingWeights."""
    return safetensors.torch.load(read_pinned(DATA / file_name, sha256, _REMEDY))


BLUR_SIGMA_PX = 3.5
"""Standard deviation of the blur of a generated image's second view, at the networks' input size."""


def blur(inputs: Tensor) -> Tensor:
    """Blur (B, C, H, W) by a Gaussian of `BLUR_SIGMA_PX`; pixels beyond the edge repeat it."""
    radius = math.ceil(3 * BLUR_SIGMA_PX)
    steps = torch.arange(-radius, radius + 1, dtype=inputs.dtype, device=inputs.device)
    kernel = torch.exp(-0.5 * (steps / BLUR_SIGMA_PX) ** 2)
    kernel = (kernel / kernel.sum()).repeat(inputs.shape[1], 1, 1, 1)
    padded = functional.pad(inputs, (radius,) * 4, mode="replicate")
    # Two passes in one dimension each: the kernel is separable.
    across = functional.conv2d(padded, kernel, groups=inputs.shape[1])
    return functional.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])


def to_tensor(inputs: Float32Array, device: torch.device) -> Tensor:
    """Copy a (B, 3, H, W) array, read-only or not, to a channels-last tensor on `device`."""
    # torch warns of arrays that may not be written, such as those in shared memory.
    writeable = inputs if inputs.flags.writeable else inputs.copy()
    return torch.from_numpy(writeable).to(device, memory_format=torch.channels_last)
