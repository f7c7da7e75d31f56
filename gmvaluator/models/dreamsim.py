"""DreamSim as an embedding: the distance the package gives for a pair is 1 - cosine of two images' vectors.

Input: B x 3 x 224 x 224 uint8, the whole image squashed by a bicubic filter; scaled to [0, 1] and normalised as each
backbone was trained, float32, on the device. Output: B x D float32 (ensemble: 1792), the backbones' features joined,
less their mean, unit norm; a lower 1 - cosine is nearer.
Source: Fu et al. 2023, arXiv 2306.09344; package dreamsim: its transformer, its files and their layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.models.blocks import hasten, ready_patches
from gmvaluator.models.dreamsim_backbones import CLIP, IMAGENET, build
from gmvaluator.models.folder import ModelsFolder
from gmvaluator.models.lora import LowRankAdapter
from gmvaluator.models.parts.dreamsim import ADAPTER_ROLE, ADAPTER_SETTINGS_ROLE, TYPES, backbone_role
from gmvaluator.models.parts.part import Part
from gmvaluator.models.pixels import Normalisation, unit_range
from gmvaluator.models.preparation import Pixels
from gmvaluator.models.runtime import Runtime
from gmvaluator.ports import Float32Array


@dataclass(frozen=True, slots=True)
class Backbone:
    """A transformer on its device, and the projection (768, 512) behind it, if there is one."""

    network: nn.Module
    projection: Tensor | None
    normalise: Normalisation

    def feature(self, pixels: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32 in [0, 1] to (B, 768) or, projected, (B, 512)."""
        feature: Tensor = self.network(self.normalise(pixels))
        return feature if self.projection is None else feature @ self.projection


class DreamSim:
    """`composed.Embedder`."""

    def __init__(self, backbones: Sequence[Backbone], runtime: Runtime) -> None:
        self._backbones = backbones
        self._runtime = runtime

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """B arrays from the preparer to (B, D) float32, unit norm."""
        pixels = unit_range(inputs, self._runtime)
        joined = torch.cat([backbone.feature(pixels).float() for backbone in self._backbones], dim=1)
        rows: Float32Array = functional.normalize(joined - joined.mean(dim=1, keepdim=True), dim=1).cpu().numpy()
        return rows


def load(part: Part, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> DreamSim:
    """See `paper.load`. Raises MissingWeights."""
    paths = {file.role: folder.verified(file, hashes[file.role]) for file in part.files}
    adapter = LowRankAdapter.read(paths[ADAPTER_ROLE], paths[ADAPTER_SETTINGS_ROLE])
    prefixes = {name: f"extractor_list.{number}.model." for number, name in enumerate(TYPES[part.settings["kind"]])}
    adapter.check_used(tuple(prefixes.values()))
    backbones = [
        _backbone(name, paths[backbone_role(name)], adapter, prefix, runtime) for name, prefix in prefixes.items()
    ]
    return DreamSim(backbones, runtime)


def _backbone(name: str, path: Path, adapter: LowRankAdapter, prefix: str, runtime: Runtime) -> Backbone:
    network, projection = build(name, path)
    adapter.add_to(network, prefix)
    network = network.to(runtime.device)
    make_ready(network, runtime.precision)
    mean, deviation = CLIP if "clip" in name else IMAGENET
    projection = None if projection is None else projection.float().to(runtime.device)
    return Backbone(network, projection, Normalisation(mean, deviation, runtime.device))


def make_ready(network: Any, precision: str) -> None:
    """Replace, in place, what `blocks` knows of a vision transformer of DreamSim or timm."""
    hasten(network.blocks, precision, first_token_only=True)
    network.patch_embed.proj = ready_patches(network.patch_embed.proj, precision)
