"""Low-rank adapters as peft stores them, added into the weights they adapt: W + (alpha / r) B A.

peft keeps them beside the weights, which costs two more products a layer and the import of transformers.
Source: Hu et al. 2021, arXiv 2106.09685, equation 3; DreamSim's files hold one adapter for all its backbones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmvaluator.errors import MissingWeights
from gmvaluator.models.checkpoints import read_plain

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_MUST_BE_UNSET = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True, slots=True)
class LowRankAdapter:
    """tensors: A (r, I) and B (O, r) of each adapted layer, by its name in the package's model."""

    scale: float
    tensors: Mapping[str, Tensor]
    path: Path

    @classmethod
    def read(cls, path: Path, settings_path: Path) -> LowRankAdapter:
        """path: adapter_model.safetensors, settings_path: adapter_config.json. Raises MissingWeights."""
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
        """Raises MissingWeights if a tensor adapts none of the modules under `prefixes`, or is of another kind."""
        for key in self.tensors:
            if not key.startswith(prefixes) or not key.endswith((_A, _B)):
                raise MissingWeights(f"weights {self.path} adapt {key}, which this type of DreamSim does not have")

    def add_to(self, module: nn.Module, prefix: str) -> int:
        """Add what adapts the linear layers of `module`, called `prefix` in the package; answers how many layers."""
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
        with torch.no_grad():
            change = (up.double() @ down.double()) * self.scale
            weight.copy_((weight.double() + change).to(weight.dtype))  # type: ignore[union-attr]
