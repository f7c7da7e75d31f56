"""The transformers that DreamSim joins, built from the files its package reads, without code from GitHub.

CLIP, open_clip, DINO and SynCLR use the transformer that the package ships; its module is imported alone, because the
package itself imports peft and transformers, eight seconds of processor time. DINOv2 is timm's.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import MissingWeights
from gmvaluator.models.checkpoints import fill_exactly, read_plain

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each channel, for backbones trained on ImageNet."""

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of each channel, for CLIP's and open_clip's backbones."""

_DINO_V2_PX, _DINO_V2_PATCH_PX = 224, 14
_DINO_V2_OFFSET = 0.1
"""Added to a side by DINOv2's own code before it scales its grid of positions."""

Built = tuple[nn.Module, Tensor | None]
"""A network of (B, 3, 224, 224), normalised, to (B, 768), and the projection (768, 512) of that, if there is one."""


def build(name: str, path: Path) -> Built:
    """Build backbone `name` with the weights in `path`, in eval mode on the CPU. Raises MissingWeights."""
    stored = read_plain(path)
    try:
        network, projection = _BUILDERS[name](stored, path)
    except (KeyError, AttributeError, TypeError) as error:
        raise MissingWeights(f"weights {path} have another form than {name}'s ({error}): fetch them again") from error
    return network.eval().requires_grad_(False), projection


def _clip(stored: Any, path: Path, patch_px: int, quick: bool) -> Built:
    """Build CLIP's image tower from DINO's modules: a norm before the blocks, and a projection after the last norm."""
    network = _transformers().vit_base(patch_size=patch_px)
    network.pos_drop = nn.LayerNorm(network.embed_dim)
    tensors = dict(stored["state_dict"])
    projection: Tensor = tensors.pop("proj").detach()
    fill_exactly(network, tensors, path)
    # CLIP's epsilon; DINO's norms have 1e-6.
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    for block in network.blocks:
        block.mlp.act = QuickGELU() if quick else block.mlp.act
    return network, projection


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = inputs * (1.702 * inputs).sigmoid()
        return outputs


def _dino(stored: Mapping[str, Tensor], path: Path) -> Built:
    """Build DINO, whose feature is the class token before the last norm."""
    network = _transformers().vit_base(patch_size=16)
    fill_exactly(network, stored, path)
    network.norm = nn.Identity()
    return network, None


def _synclr(stored: Any, path: Path) -> Built:
    prefix = "module.visual."
    return _dino({key[len(prefix) :]: value for key, value in stored["model"].items()}, path)


def _dino_v2(stored: Mapping[str, Tensor], path: Path) -> Built:
    network = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=_DINO_V2_PX, num_classes=0)
    tensors = {name: tensor for name, tensor in stored.items() if name != "mask_token"}
    fill_exactly(network, {**tensors, "pos_embed": _positions(tensors["pos_embed"])}, path)
    network.norm = nn.Identity()
    return network, None


def _positions(stored: Tensor) -> Tensor:
    """Scale positions (1, 1 + 37 * 37, 768) of 518 pixels to 224, as DINOv2's own code does at every call."""
    if stored.ndim != 3 or stored.shape[1] < 2:
        raise TypeError(f"pos_embed has shape {tuple(stored.shape)}")
    side = math.isqrt(stored.shape[1] - 1)
    scale = (_DINO_V2_PX // _DINO_V2_PATCH_PX + _DINO_V2_OFFSET) / side
    grid = stored[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scaled = functional.interpolate(grid, mode="bicubic", scale_factor=(scale, scale))
    return torch.cat([stored[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


_BUILDERS: dict[str, Callable[[Any, Path], Built]] = {
    "clip_vitb16": lambda stored, path: _clip(stored, path, 16, quick=True),
    "clip_vitb32": lambda stored, path: _clip(stored, path, 32, quick=True),
    "open_clip_vitb16": lambda stored, path: _clip(stored, path, 16, quick=False),
    "open_clip_vitb32": lambda stored, path: _clip(stored, path, 32, quick=False),
    "dino_vitb16": _dino,
    "synclr_vitb16": _synclr,
    "dinov2_vitb14": _dino_v2,
}


@lru_cache(maxsize=1)
def _transformers() -> ModuleType:
    """Import dreamsim.feature_extraction.vision_transformer without the package around it."""
    package = importlib.util.find_spec("dreamsim")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "feature_extraction" / "vision_transformer.py"
    spec = importlib.util.spec_from_file_location("gmvaluator_dreamsim_transformer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
