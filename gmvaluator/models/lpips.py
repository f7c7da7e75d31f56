"""Re-ranking by LPIPS on AlexNet, built by the package `lpips`, as features whose squared distance is LPIPS.

Input: B x 3 x 224 x 224 uint8, the whole image squashed; scaled to [-1, 1], float32, on the device. Output: B x 484,992
float32, not of unit norm: the layers' normalised activations, each times the root of its weight over its pixels, so
that the sum of squared differences of two rows is what `lpips.LPIPS` returns for the two images; lower is nearer. The
features are too large for an index: `attributor.core.pixel_reranking` computes them from thumbnails. Always float32.
Source: Zhang et al. 2018, arXiv 1801.03924; package lpips (BSD-2-Clause), whose linear weights come with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lpips
import torch
from torch import Tensor

from gmvaluator.models.checkpoints import fill, read_tensors
from gmvaluator.models.device import Runtime, unit_range
from gmvaluator.models.preprocessing import Pixels
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Float32Array


class Lpips:
    """The features of LPIPS, as a `composed.Embedder` whose rows are not of unit norm."""

    def __init__(self, network: Any, runtime: Runtime) -> None:
        """Put the network on its device; network: lpips.LPIPS with its weights."""
        self._network = network.eval().requires_grad_(False).to(runtime.device)
        self._runtime = runtime
        # The package keeps its weights at zero or above, so each has a root.
        self._roots = [layer.model[-1].weight.clamp(min=0).sqrt() for layer in self._network.lins]

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """Embed B arrays from the preparer as (B, D) float32."""
        pixels = 2 * unit_range(inputs, self._runtime) - 1
        layers = self._network.net(self._network.scaling_layer(pixels))
        features: Float32Array = (
            torch.cat([_weighted(layer, root) for layer, root in zip(layers, self._roots, strict=True)], dim=1)
            .cpu()
            .numpy()
        )
        return features


def _weighted(layer: Tensor, root: Tensor) -> Tensor:
    pixels = layer.shape[2] * layer.shape[3]
    weighted: Tensor = (lpips.normalize_tensor(layer) * root).flatten(1) / pixels**0.5
    return weighted


def load(spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> Lpips:
    """Load the model of `spec`; see `composed.Loader`. Raises MissingWeights."""
    (file,) = spec.files
    path = folder.verified(file, hashes[file.role])
    network = build()
    stored = read_tensors(path)
    # The package puts AlexNet's layers into slices, and keeps torchvision's numbers.
    trunk = {f"features.{name.partition('.')[2]}": name for name in network.net.state_dict()}
    fill(network.net, {ours: stored[theirs] for theirs, ours in trunk.items() if theirs in stored}, path)
    return Lpips(network, runtime)


def build() -> Any:
    """Build the package's network on an untrained AlexNet, with its own linear weights, offline."""
    with warnings.catch_warnings():
        # It calls torchvision with deprecated parameters.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
