"""DreamSim as an embedding: the package's distance of a pair is 1 - cosine of the two images' vectors.

Input: B x 3 x 224 x 224 uint8, the whole image squashed by a bicubic filter; scaled to [0, 1] and normalised as each
backbone was trained, float32, on the device. Output: B x D float32 (ensemble: 1792), the backbones' features joined,
less their mean, unit norm; a lower 1 - cosine is nearer.
Source: Fu et al. 2023, arXiv 2306.09344; package dreamsim: its transformer, its files and their layout.

Its low-rank adapters, stored by peft, are added into the weights they adapt: W + (alpha / r) B A. peft itself keeps
them separate, which costs two more products a layer and the import of transformers.
Source: Hu et al. 2021, arXiv 2106.09685, equation 3; DreamSim's files hold one adapter for all its backbones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import MissingWeights
from gmvaluator.models.checkpoints import read_plain
from gmvaluator.models.device import Normalisation, Runtime, unit_range
from gmvaluator.models.dreamsim_backbones import CLIP, IMAGENET, build
from gmvaluator.models.fast_layers import fused_patches, optimize_blocks
from gmvaluator.models.known_models import ADAPTER_ROLE, ADAPTER_SETTINGS_ROLE, DREAMSIM_TYPES, backbone_role
from gmvaluator.models.preprocessing import Pixels
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Float32Array

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_MUST_BE_UNSET = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Options of peft that would change the formula above."""


@dataclass(frozen=True, slots=True)
class LowRankAdapter:
    """An adapter of a network's linear layers.

    scale: alpha / r. tensors: A (r, I) and B (O, r) of each adapted layer, by its name in the package's model.
    """

    scale: float
    tensors: Mapping[str, Tensor]
    path: Path

    @classmethod
    def read(cls, path: Path, settings_path: Path) -> LowRankAdapter:
        """Read adapter_model.safetensors and adapter_config.json. Raises MissingWeights."""
        try:
            settings: dict[str, Any] = json.loads(settings_path.read_text(encoding="utf-8"))
            scale = float(settings["lora_alpha"]) / int(settings["r"])
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise MissingWeights(f"{settings_path} is no peft configuration ({error}): fetch it again") from error
        unknown = [name for name in _MUST_BE_UNSET if settings.get(name)]
        if unknown or settings.get("bias", "none") != "none":
            raise MissingWeights(f"{settings_path} asks for {unknown or 'biases'}, which DreamSim's files never had")
        return cls(scale, {key.removeprefix(_PREFIX): value for key, value in read_plain(path).items()}, path)

    def check_used(self, prefixes: tuple[str, ...]) -> None:
        """Check that every tensor is an A or B of a module under `prefixes`. Raises MissingWeights."""
        for key in self.tensors:
            if not key.startswith(prefixes) or not key.endswith((_A, _B)):
                raise MissingWeights(f"weights {self.path} adapt {key}, which this type of DreamSim does not have")

    def add_to(self, module: nn.Module, prefix: str) -> int:
        """Adapt the linear layers of `module`, called `prefix` in the package, in place; return their number."""
        names = [key.removesuffix(_A) for key in self.tensors if key.startswith(prefix) and key.endswith(_A)]
        for name in names:
            self._add(module, name, name.removeprefix(prefix))
        return len(names)

    def _add(self, module: nn.Module, name: str, own_name: str) -> None:
        down, up = self.tensors[name + _A], self.tensors.get(name + _B)
        try:
            layer = module.get_submodule(own_name)
        except AttributeError as error:
            raise MissingWeights(f"weights {self.path} adapt {name}, which the model does not have") from error
        weight = getattr(layer, "weight", None)
        fits = up is not None and isinstance(weight, Tensor) and weight.shape == (len(up), down.shape[-1])
        if not fits or up is None or up.shape[1] != len(down):
            raise MissingWeights(f"weights {self.path} adapt {name} with matrices of other shapes than its own")
        # In float64, so that the sum is rounded once.
        with torch.no_grad():
            change = (up.double() @ down.double()) * self.scale
            weight.copy_((weight.double() + change).to(weight.dtype))  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A transformer on its device, and the projection (768, 512) of its output, if there is one."""

    network: nn.Module
    projection: Tensor | None
    normalise: Normalisation

    def feature(self, pixels: Tensor) -> Tensor:
        """Compute the features of (B, 3, 224, 224) float32 in [0, 1]: (B, 768), or (B, 512) if projected."""
        feature: Tensor = self.network(self.normalise(pixels))
        return feature if self.projection is None else feature @ self.projection


class DreamSim:
    """DreamSim as a `composed.Embedder` of one backbone or more."""

    def __init__(self, backbones: Sequence[Backbone], runtime: Runtime) -> None:
        self._backbones = backbones
        self._runtime = runtime

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """Embed B arrays from the preparer as (B, D) float32, unit norm."""
        pixels = unit_range(inputs, self._runtime)
        joined = torch.cat([backbone.feature(pixels).float() for backbone in self._backbones], dim=1)
        rows: Float32Array = functional.normalize(joined - joined.mean(dim=1, keepdim=True), dim=1).cpu().numpy()
        return rows


def load(spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> DreamSim:
    """Load the model of `spec`; see `composed.Loader`. Raises MissingWeights."""
    paths = {file.role: folder.verified(file, hashes[file.role]) for file in spec.files}
    adapter = LowRankAdapter.read(paths[ADAPTER_ROLE], paths[ADAPTER_SETTINGS_ROLE])
    names = DREAMSIM_TYPES[spec.settings["kind"]]
    prefixes = {name: f"extractor_list.{number}.model." for number, name in enumerate(names)}
    adapter.check_used(tuple(prefixes.values()))
    backbones = [
        _backbone(name, paths[backbone_role(name)], adapter, prefix, runtime) for name, prefix in prefixes.items()
    ]
    return DreamSim(backbones, runtime)


def _backbone(name: str, path: Path, adapter: LowRankAdapter, prefix: str, runtime: Runtime) -> Backbone:
    network, projection = build(name, path)
    # Before the blocks are fused: fused weights are packed and cannot be changed.
    adapter.add_to(network, prefix)
    network = network.to(runtime.device)
    optimize_transformer(network, runtime.precision)
    mean, deviation = CLIP if "clip" in name else IMAGENET
    projection = None if projection is None else projection.float().to(runtime.device)
    return Backbone(network, projection, Normalisation(mean, deviation, runtime.device))


def optimize_transformer(network: Any, precision: str) -> None:
    """Replace, in place, the layers of a vision transformer of DreamSim or timm that `fast_layers` can fuse."""
    optimize_blocks(network.blocks, precision, first_token_only=True)
    network.patch_embed.proj = fused_patches(network.patch_embed.proj, precision)
