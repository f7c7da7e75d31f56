"""The backbone of profile `lite` in torch: for training, GPUs, and precisions below fp32.

`lite_onnx` computes the same on a CPU in fp32, in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn

from gmvaluator.errors import ModelFailed
from gmvaluator.models.device import Runtime
from gmvaluator.models.fast_layers import DTYPES
from gmvaluator.models.folding import fold
from gmvaluator.models.lite_weights import STAGE_BLOCKS, Features
from gmvaluator.ports import Float32Array


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

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `Features.pooled` and `Features.texture` of (B, 3, 224, 224) float32 in [-1, 1]."""
        *stages, last = self.maps(inputs)
        moments = [_moments(stage) for stage in stages]
        means = [mean for mean, _ in moments[-3:]]
        texture = torch.cat([values for pair in moments for values in pair], dim=1)
        return torch.cat([*means, last.mean(dim=(2, 3))], dim=1), texture

    def maps(self, inputs: Tensor) -> list[Tensor]:
        """Compute the maps of the five stages and of the last layer, (B, C, H, W) float32."""
        hidden = self.stem(inputs.to(self.dtype))
        stages = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in STAGE_BLOCKS:
                stages.append(hidden.float())
        return [*stages, self.last(hidden).float()]


def _moments(stage: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of (B, C, H, W), both (B, C)."""
    pixels = stage.permute(0, 2, 3, 1).flatten(1, 2)  # A view, because channels come last: (B, H W, C).
    mean = pixels.mean(dim=1)
    deviation = pixels - mean[:, None]
    return mean, (deviation * deviation).mean(dim=1).sqrt()


class TorchBackbone:
    """A `Backbone` on a device, from arrays to arrays."""

    def __init__(self, state: Mapping[str, npt.NDArray[Any]], runtime: Runtime) -> None:
        """state: see `Backbone`."""
        tensors = {name: torch.from_numpy(tensor) for name, tensor in state.items()}
        self._device = runtime.device
        self._network = Backbone(tensors, runtime.precision).to(runtime.device)

    def __call__(self, images: Float32Array) -> Features:
        """Compute the features of (B, 3, 224, 224) float32 in [-1, 1]. Raises ModelFailed."""
        return Features(*self._run(self._network, images))

    def maps(self, images: Float32Array) -> list[Float32Array]:
        """Compute the maps that `Features.pooled` are means of: four of (B, C, H, W). Raises ModelFailed."""
        return self._run(self._network.maps, images)[-4:]

    def _run(self, network: Callable[[Tensor], Sequence[Tensor]], images: Float32Array) -> list[Float32Array]:
        # torch warns of arrays that may not be written, such as those in shared memory.
        writeable = images if images.flags.writeable else images.copy()
        try:
            with torch.inference_mode():
                inputs = torch.from_numpy(writeable).to(self._device, memory_format=torch.channels_last)
                return [output.cpu().numpy() for output in network(inputs)]
        except RuntimeError as error:
            raise ModelFailed(f"the lite models failed: {error}") from error
