"""Profile `paper`: which models the operator's choice of variants names."""

from __future__ import annotations

from collections.abc import Callable

from gmvaluator.errors import InvalidInput
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.parts.dreamsim import dreamsim_part
from gmvaluator.models.parts.lpips import COMPARES_PIXELS, lpips_part
from gmvaluator.models.parts.openclip import openclip_part
from gmvaluator.models.parts.part import Part, Parts
from gmvaluator.models.parts.pyiqa import pyiqa_part
from gmvaluator.models.parts.shipped import lite_quality_part
from gmvaluator.models.parts.vgg16 import vgg16_part

DEFAULT_RECALL = "ViT-B-32:laion2b_s34b_b79k"
DEFAULT_RERANK = "dreamsim:ensemble"
DEFAULT_QUALITY = "maniqa"


def parts_of(choice: ProfileChoice) -> Parts:
    """The models of profile `paper` with these variants. Raises InvalidInput or UnknownModel."""
    recall = _recall(choice.recall or DEFAULT_RECALL)
    return Parts(recall, _perceptual(choice.rerank or DEFAULT_RERANK, recall), _quality(choice))


def _recall(name: str) -> Part:
    return vgg16_part() if name == "vgg16" else openclip_part(name)


def _perceptual(name: str, recall: Part) -> Part:
    """ "none" re-ranks by the recall vector: the paper's No-Rerank."""
    if name == "none":
        return Part("none, the recall distance", dim=recall.dim)
    family, _, variant = name.partition(":")
    if family == COMPARES_PIXELS:
        return lpips_part(variant, recall.dim)
    if family not in _PERCEPTUAL:
        raise InvalidInput(f"--rerank {name!r} is not known: give dreamsim:TYPE, lpips:alex or none")
    return _PERCEPTUAL[family](variant)


_PERCEPTUAL: dict[str, Callable[[str], Part]] = {"dreamsim": dreamsim_part}


def _quality(choice: ProfileChoice) -> Part:
    """ "off" takes every image's quality to be 1."""
    name = choice.quality or DEFAULT_QUALITY
    if name in _OWN_QUALITY:
        if choice.crops:
            raise InvalidInput(f"--crops is for maniqa, and quality is {name}: leave it out")
        return _OWN_QUALITY[name]()
    return pyiqa_part(name, choice.crops)


_OWN_QUALITY: dict[str, Callable[[], Part]] = {
    "off": lambda: Part("off, 1 for every image"),
    "lite": lite_quality_part,
}
