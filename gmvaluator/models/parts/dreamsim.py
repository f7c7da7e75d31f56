"""DreamSim: every type that its authors released, as the package `dreamsim` lays its files out."""

from __future__ import annotations

from dataclasses import dataclass

from gmvaluator.errors import UnknownModel
from gmvaluator.models.parts.part import Fetcher, Part, WeightFile

FOLDER = "dreamsim"
"""Below the models folder: what the package calls `cache_dir`."""

_DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
_DINO_V2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
_CLIP_LICENCE = "MIT (github.com/openai/CLIP)"
_OPEN_CLIP_LICENCE = "MIT (github.com/mlfoundations/open_clip, trained on LAION-400M)"
_DINO_LICENCE = "Apache-2.0 (github.com/facebookresearch/dino)"


@dataclass(frozen=True, slots=True)
class _Backbone:
    """dim: of the feature that DreamSim takes of it. url: where the package fetches it if not from its own archive."""

    file: str
    dim: int
    licence: str
    size_mb: int
    url: str = ""


BACKBONES = {
    "dino_vitb16": _Backbone("checkpoints/dino_vitbase16_pretrain.pth", 768, _DINO_LICENCE, 343, _DINO),
    "dinov2_vitb14": _Backbone(
        "checkpoints/dinov2_vitb14_pretrain.pth", 768, "Apache-2.0 (github.com/facebookresearch/dinov2)", 346, _DINO_V2
    ),
    "synclr_vitb16": _Backbone("synclr_vit_b_16.pth", 768, "Apache-2.0 (github.com/google-research/syn-rep-learn)", 0),
    "clip_vitb16": _Backbone("clip_vitb16_pretrain.pth.tar", 512, _CLIP_LICENCE, 345),
    "clip_vitb32": _Backbone("clip_vitb32_pretrain.pth.tar", 512, _CLIP_LICENCE, 352),
    "open_clip_vitb16": _Backbone("open_clip_vitb16_pretrain.pth.tar", 512, _OPEN_CLIP_LICENCE, 345),
    "open_clip_vitb32": _Backbone("open_clip_vitb32_pretrain.pth.tar", 512, _OPEN_CLIP_LICENCE, 352),
}

TYPES = {
    "ensemble": ("dino_vitb16", "clip_vitb16", "open_clip_vitb16"),
    "dino_vitb16": ("dino_vitb16",),
    "clip_vitb32": ("clip_vitb32",),
    "open_clip_vitb32": ("open_clip_vitb32",),
    "dinov2_vitb14": ("dinov2_vitb14",),
    "synclr_vitb16": ("synclr_vitb16",),
}
"""Released type: its backbones, in the order their features are joined."""


def dreamsim_part(kind: str) -> Part:
    """kind: a released type. Raises UnknownModel."""
    if kind not in TYPES:
        raise UnknownModel(f"DreamSim has no type {kind!r}; known: {', '.join(sorted(TYPES))}")
    dim = sum(BACKBONES[name].dim for name in TYPES[kind])
    files = (*(_backbone_file(kind, name) for name in TYPES[kind]), *_adapter_files(kind))
    return Part(
        f"dreamsim {kind}", "gmvaluator.models.dreamsim", "gmvaluator.models.squash", dim, files, {"kind": kind}
    )


def backbone_role(name: str) -> str:
    return f"perceptual/{name}"


ADAPTER_ROLE = "perceptual/lora"
ADAPTER_SETTINGS_ROLE = "perceptual/lora settings"


def _backbone_file(kind: str, name: str) -> WeightFile:
    backbone = BACKBONES[name]
    fetcher: Fetcher = "url" if backbone.url else "dreamsim"
    path = f"{FOLDER}/{backbone.file}"
    return WeightFile(backbone_role(name), path, fetcher, backbone.url or kind, backbone.licence, backbone.size_mb)


def _adapter_files(kind: str) -> tuple[WeightFile, ...]:
    folder = f"{FOLDER}/{'ensemble' if kind == 'ensemble' else f'{kind}_single'}_lora"
    licence = "MIT (github.com/ssundaram21/dreamsim)"
    return (
        WeightFile(ADAPTER_ROLE, f"{folder}/adapter_model.safetensors", "dreamsim", kind, licence, 3),
        WeightFile(ADAPTER_SETTINGS_ROLE, f"{folder}/adapter_config.json", "dreamsim", kind, licence, 0),
    )
