"""Recall by VGG-16, the embedding of the paper's first version: the last hidden layer of 4,096 units.

Input: B x 3 x 224 x 224 uint8, the shorter side resized to 256 (bilinear) and the middle square; scaled to [0, 1] and
normalised by ImageNet's mean and deviation, on the device. Output: B x 4096 float32, unit norm; a higher cosine is
nearer. Below float32 everything is computed in the lower precision.
Source: Simonyan and Zisserman 2014, arXiv 1409.1556; package torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import vgg16

from gmvaluator.models.checkpoints import fill, read_tensors
from gmvaluator.models.device import Normalisation, Runtime, unit_range
from gmvaluator.models.fast_layers import DTYPES
from gmvaluator.models.preprocessing import VGG16_DEVIATION, VGG16_MEAN, Pixels
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Float32Array


class Vgg16:
    """VGG-16 without its last layer, as a `composed.Embedder`."""

    def __init__(self, network: nn.Module, runtime: Runtime) -> None:
        """Take over the network, without its last layer; network: torchvision's, with its weights."""
        network.classifier = network.get_submodule("classifier")[:-1]  # type: ignore[index]
        self._dtype = DTYPES[runtime.precision]
        self._network = network.eval().requires_grad_(False).to(runtime.device, self._dtype)
        self._network = self._network.to(memory_format=torch.channels_last)
        self._runtime = runtime
        self._normalise = Normalisation(VGG16_MEAN, VGG16_DEVIATION, runtime.device)

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """Embed B arrays from the preparer as (B, 4096) float32, unit norm."""
        pixels = self._normalise(unit_range(inputs, self._runtime))
        features = self._network(pixels.to(dtype=self._dtype, memory_format=torch.channels_last))
        rows: Float32Array = functional.normalize(features.float(), dim=-1).cpu().numpy()
        return rows


def load(spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> Vgg16:
    """Load the model of `spec`; see `composed.Loader`. Raises MissingWeights."""
    (file,) = spec.files
    path = folder.verified(file, hashes[file.role])
    network = vgg16(weights=None, init_weights=False)
    fill(network, read_tensors(path), path)
    return Vgg16(network, runtime)
