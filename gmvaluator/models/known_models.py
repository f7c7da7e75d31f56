"""The models that profile `paper` knows: their specifications, weight files, licences and sources.

Recall: CLIP's image tower by open_clip (any architecture and tag it lists, or a checkpoint of one of its
architectures), or VGG-16, as in the first version of the paper. Re-ranking: DreamSim in every type that its authors
released, or LPIPS. Quality: MANIQA and other metrics of pyiqa, or the head of profile `lite`. `specs_of` turns the
operator's choice into the three specifications. Imports none of the models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gmvaluator.errors import InvalidInput, UnknownModel
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.specs import DATA, Fetcher, ModelSpec, ProfileSpecs, WeightFile

RECALL_ROLE = "recall"
QUALITY_ROLE = "quality"
ADAPTER_ROLE = "perceptual/lora"
ADAPTER_SETTINGS_ROLE = "perceptual/lora settings"

DREAMSIM_FOLDER = "dreamsim"
"""Folder below the models folder that the package calls `cache_dir`; its layout is the package's."""

_DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
_DINO_V2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
_CLIP_LICENCE = "MIT (github.com/openai/CLIP)"
_OPEN_CLIP_LICENCE = "MIT (github.com/mlfoundations/open_clip, trained on LAION-400M)"
_DINO_LICENCE = "Apache-2.0 (github.com/facebookresearch/dino)"


@dataclass(frozen=True, slots=True)
class _Backbone:
    """A transformer of DreamSim.

    dim: length of the feature that DreamSim takes of it. url: where the package fetches it, if not from its archive.
    """

    file: str
    dim: int
    licence: str
    size_mb: int
    url: str = ""


DREAMSIM_BACKBONES = {
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

DREAMSIM_TYPES = {
    "ensemble": ("dino_vitb16", "clip_vitb16", "open_clip_vitb16"),
    "dino_vitb16": ("dino_vitb16",),
    "clip_vitb32": ("clip_vitb32",),
    "open_clip_vitb32": ("open_clip_vitb32",),
    "dinov2_vitb14": ("dinov2_vitb14",),
    "synclr_vitb16": ("synclr_vitb16",),
}
"""Backbones of each released type, in the order in which their features are joined."""


def dreamsim_spec(kind: str) -> ModelSpec:
    """Return the specification of DreamSim; kind: a released type. Raises UnknownModel."""
    if kind not in DREAMSIM_TYPES:
        raise UnknownModel(f"DreamSim has no type {kind!r}; known: {', '.join(sorted(DREAMSIM_TYPES))}")
    dim = sum(DREAMSIM_BACKBONES[name].dim for name in DREAMSIM_TYPES[kind])
    files = (*(_backbone_file(kind, name) for name in DREAMSIM_TYPES[kind]), *_adapter_files(kind))
    return ModelSpec(f"dreamsim {kind}", "dreamsim", dim, files, {"kind": kind})


def backbone_role(name: str) -> str:
    """Return the role of a DreamSim backbone's file."""
    return f"perceptual/{name}"


def _backbone_file(kind: str, name: str) -> WeightFile:
    backbone = DREAMSIM_BACKBONES[name]
    fetcher: Fetcher = "url" if backbone.url else "dreamsim"
    path = f"{DREAMSIM_FOLDER}/{backbone.file}"
    return WeightFile(backbone_role(name), path, fetcher, backbone.url or kind, backbone.licence, backbone.size_mb)


def _adapter_files(kind: str) -> tuple[WeightFile, ...]:
    folder = f"{DREAMSIM_FOLDER}/{'ensemble' if kind == 'ensemble' else f'{kind}_single'}_lora"
    licence = "MIT (github.com/ssundaram21/dreamsim)"
    return (
        WeightFile(ADAPTER_ROLE, f"{folder}/adapter_model.safetensors", "dreamsim", kind, licence, 3),
        WeightFile(ADAPTER_SETTINGS_ROLE, f"{folder}/adapter_config.json", "dreamsim", kind, licence, 0),
    )


_OPENCLIP_LICENCES = {
    "laion": "MIT (model card)",
    "datacomp": "MIT (model card)",
    "commonpool": "MIT (model card)",
    "openai": "MIT (github.com/openai/CLIP; its model card rules out deployed use)",
}
"""Licences of weights, by the start of their tag."""


def openclip_spec(choice: str) -> ModelSpec:
    """Return the specification of a CLIP image tower.

    choice: "ARCHITECTURE:TAG" or "ARCHITECTURE:/path/to/checkpoint". Raises InvalidInput, UnknownModel.
    """
    architecture, separator, weights = choice.partition(":")
    if not separator or not weights:
        raise InvalidInput(
            f"--recall {choice!r} names no weights: give ARCHITECTURE:TAG or ARCHITECTURE:/path/to/checkpoint, "
            "for example ViT-B-32:laion2b_s34b_b79k, or vgg16"
        )
    settings = {"architecture": architecture, "tag": "" if _is_path(weights) else weights}
    file = _local_file(weights) if _is_path(weights) else _tagged_file(architecture, weights)
    model = f"open_clip {architecture} {settings['tag'] or 'local checkpoint'}"
    return ModelSpec(model, "openclip", _dimension(architecture), (file,), settings)


def _is_path(weights: str) -> bool:
    return "/" in weights or "\\" in weights or Path(weights).suffix in {".pt", ".pth", ".bin", ".safetensors"}


def _local_file(path: str) -> WeightFile:
    return WeightFile(RECALL_ROLE, str(Path(path).expanduser().absolute()), "local", path, "the operator's own", 0)


def _tagged_file(architecture: str, tag: str) -> WeightFile:
    licence = next(
        (text for start, text in _OPENCLIP_LICENCES.items() if tag.startswith(start)), "see the tag's model card"
    )
    path = f"open_clip/{architecture}/{tag}.safetensors"
    return WeightFile(
        RECALL_ROLE, path, "open_clip", f"{architecture}:{tag}", licence, 605 if "B-32" in architecture else 0
    )


def _dimension(architecture: str) -> int:
    folder = _configurations()
    path = folder / f"{architecture}.json"
    # A slash would leave the folder.
    if "/" in architecture or not path.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
        raise UnknownModel(f"open_clip has no architecture {architecture!r}; known: {known}")
    configuration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return int(configuration["embed_dim"])


def _configurations() -> Path:
    """Return the folder of open_clip's architectures without importing open_clip, which would import torch."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model_configs"


ALL_CROPS = 20
"""Crops of an image that pyiqa's MANIQA scores."""

_PYIQA_LICENCE = "as pyiqa: PolyForm-Noncommercial 1.0.0 (its repository names no other for this file)"
_STORE = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"


@dataclass(frozen=True, slots=True)
class PyiqaMetric:
    """A metric of pyiqa.

    worst and best: values that become quality 0 and 1; worst above best: a lower value is better.
    """

    file: str
    worst: float
    best: float
    size_mb: int


PYIQA_METRICS = {
    "maniqa": PyiqaMetric("ckpt_koniq10k.pt", 0, 1, 543),
    "maniqa-pipal": PyiqaMetric("MANIQA_PIPAL-ae6d356b.pth", 0, 1, 543),
    "maniqa-kadid": PyiqaMetric("ckpt_kadid10k.pt", 0, 1, 543),
    "musiq": PyiqaMetric("musiq_koniq_ckpt-e95806b9.pth", 0, 100, 109),
    "musiq-spaq": PyiqaMetric("musiq_spaq_ckpt-358bb6af.pth", 0, 100, 109),
    "musiq-paq2piq": PyiqaMetric("musiq_paq2piq_ckpt-364c0c84.pth", 0, 100, 109),
    "cnniqa": PyiqaMetric("CNNIQA_koniq10k-e6f14c91.pth", 0, 1, 3),
    "brisque": PyiqaMetric("brisque_svm_weights.pth", 100, 0, 1),
    "niqe": PyiqaMetric("niqe_modelparameters.mat", 20, 0, 1),
}
"""Metrics by name. pyiqa states the ranges "~0, ~150" for brisque and "~0, ~100" for niqe; the ranges used here are
narrower, and hold all but ruined images."""


def pyiqa_spec(name: str, crops: int) -> ModelSpec:
    """Return the specification of a metric of pyiqa.

    crops: how many crops of an image MANIQA scores, 1 to 20; 0 for pyiqa's 20. Raises UnknownModel, InvalidInput.
    """
    if name not in PYIQA_METRICS:
        raise UnknownModel(f"there is no quality model {name!r}; known: {', '.join(PYIQA_METRICS)}, lite, off")
    metric = PYIQA_METRICS[name]
    files = (
        WeightFile(
            QUALITY_ROLE, f"pyiqa/{metric.file}", "url", f"{_STORE}/{metric.file}", _PYIQA_LICENCE, metric.size_mb
        ),
    )
    if name.startswith("maniqa"):
        return _maniqa_spec(name, crops or ALL_CROPS, files)
    if crops:
        raise InvalidInput(f"--crops is for maniqa; {name} sees the whole image: leave it out")
    return ModelSpec(f"pyiqa {name}", "pyiqa", 0, files, {"metric": name})


def _maniqa_spec(name: str, crops: int, files: tuple[WeightFile, ...]) -> ModelSpec:
    if not 1 <= crops <= ALL_CROPS:
        raise InvalidInput(f"--crops {crops} is out of range: MANIQA scores 1 to {ALL_CROPS} crops of an image")
    model = f"pyiqa {name}, {crops} crops"
    settings = {"metric": name, "crops": crops}
    return ModelSpec(model, "maniqa", 0, files, settings)


COMPARES_PIXELS = "lpips"
"""Start of the names of perceptual models that compare pixels: the index holds no vectors of theirs."""

_ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


def lpips_spec(network: str, recall_dim: int) -> ModelSpec:
    """Return the specification of LPIPS.

    network: "alex". recall_dim: length of the recall vector, which the index holds in place of this model's features.
    Raises UnknownModel.
    """
    if network != "alex":
        raise UnknownModel(f"LPIPS has no network {network!r} here; known: alex")
    file = WeightFile(
        "perceptual/alexnet",
        f"torchvision/{_ALEXNET_FILE}",
        "url",
        f"https://download.pytorch.org/models/{_ALEXNET_FILE}",
        "BSD-3-Clause (github.com/pytorch/vision); trained on ImageNet, whose terms are for research",
        233,
        "7be5be79",
    )
    return ModelSpec(f"{COMPARES_PIXELS} alex 0.1", "lpips", recall_dim, (file,))


VGG16_DIM = 4096
"""Units of the last hidden layer."""

_VGG16_FILE = "vgg16-397923af.pth"


def vgg16_spec() -> ModelSpec:
    """Return the specification of torchvision's VGG-16 with its ImageNet weights."""
    file = WeightFile(
        RECALL_ROLE,
        f"torchvision/{_VGG16_FILE}",
        "url",
        f"https://download.pytorch.org/models/{_VGG16_FILE}",
        "BSD-3-Clause (github.com/pytorch/vision); trained on ImageNet, whose terms are for research",
        528,
        "397923af",
    )
    return ModelSpec("torchvision vgg16", "vgg16", VGG16_DIM, (file,))


_LITE_LICENCE = "Apache-2.0 (see lite.LICENSE.md)"


def lite_quality_spec() -> ModelSpec:
    """Return the specification of the quality head of profile `lite`, on its own backbone."""
    names = {"backbone": "lite-backbone.safetensors", "heads": "lite.safetensors"}
    files = tuple(
        WeightFile(f"quality/{role}", str(DATA / name), "local", "shipped with gmvaluator", _LITE_LICENCE, 7)
        for role, name in names.items()
    )
    return ModelSpec("lite head", "lite", 0, files)


DEFAULT_RECALL = "ViT-B-32:laion2b_s34b_b79k"
DEFAULT_RERANK = "dreamsim:ensemble"
DEFAULT_QUALITY = "maniqa"


def specs_of(choice: ProfileChoice) -> ProfileSpecs:
    """Return the models of profile `paper` with these variants. Raises InvalidInput or UnknownModel."""
    recall = _recall(choice.recall or DEFAULT_RECALL)
    return ProfileSpecs(recall, _perceptual(choice.rerank or DEFAULT_RERANK, recall), _quality(choice))


def _recall(name: str) -> ModelSpec:
    return vgg16_spec() if name == "vgg16" else openclip_spec(name)


def _perceptual(name: str, recall: ModelSpec) -> ModelSpec:
    # Without a perceptual model the recall vector re-ranks: the paper's No-Rerank.
    if name == "none":
        return ModelSpec("none, the recall distance", dim=recall.dim)
    family, _, variant = name.partition(":")
    if family == COMPARES_PIXELS:
        return lpips_spec(variant, recall.dim)
    if family == "dreamsim":
        return dreamsim_spec(variant)
    raise InvalidInput(f"--rerank {name!r} is not known: give dreamsim:TYPE, lpips:alex or none")


def _quality(choice: ProfileChoice) -> ModelSpec:
    name = choice.quality or DEFAULT_QUALITY
    if name in _OTHER_QUALITY:
        if choice.crops:
            raise InvalidInput(f"--crops is for maniqa, and quality is {name}: leave it out")
        return _OTHER_QUALITY[name]()
    return pyiqa_spec(name, choice.crops)


_OTHER_QUALITY: dict[str, Callable[[], ModelSpec]] = {
    "off": lambda: ModelSpec("off, 1 for every image"),
    "lite": lite_quality_spec,
}
"""Quality models that are not pyiqa's; "off" takes every image's quality to be 1."""
