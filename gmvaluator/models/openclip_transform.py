"""open_clip's own transform for an architecture and its weights, up to the pixels; imports open_clip, loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from gmvaluator.errors import PreconditionFailed, UnknownModel
from gmvaluator.models.parts.part import Part
from gmvaluator.models.squash import pixels_of


class OpenClipTransform:
    """`preparation.Preparer`. mean, deviation: of the normalisation that follows on the device, one a channel."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: fields of open_clip's PreprocessCfg."""
        steps = image_transform_v2(PreprocessCfg(**settings), is_train=False).transforms
        self._geometry = Compose(steps[:-2])  # Without ToTensor and Normalize, which follow on the device.
        self._square_resize = _square_resize(steps[:-3])
        self.settings = settings
        self.mean: Sequence[float] = steps[-1].mean
        self.deviation: Sequence[float] = steps[-1].std

    @property
    def square_resize(self) -> tuple[int, str] | None:
        return self._square_resize

    def __call__(self, image: Image.Image) -> npt.NDArray[Any]:
        """RGB image to (3, S, S) uint8."""
        return pixels_of(self._geometry(image))


def openclip_preparer(part: Part) -> OpenClipTransform:
    """See `preparation.preparation_of`. Raises UnknownModel, naming the known tags, or PreconditionFailed."""
    architecture, tag = part.settings["architecture"], part.settings["tag"]
    configuration = open_clip.get_model_config(architecture) or {}
    options = _tag_options(architecture, tag, configuration) if tag else {}
    fields = PreprocessCfg.__dataclass_fields__
    chosen = {name: value for name, value in options.items() if name in fields and value is not None}
    return OpenClipTransform({**chosen, "size": configuration["vision_cfg"].get("image_size", 224)})


def _tag_options(architecture: str, tag: str, configuration: dict[str, Any]) -> dict[str, Any]:
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in known:
        raise UnknownModel(f"open_clip has no weights {tag!r} for {architecture}; known: {', '.join(known) or 'none'}")
    options: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    wanted = bool(options.get("quick_gelu", False))
    if wanted != bool(configuration.get("quick_gelu", False)):
        other = f"{architecture}-quickgelu" if wanted else architecture.removesuffix("-quickgelu")
        raise PreconditionFailed(f"{architecture}:{tag} was trained with another activation: use {other}:{tag}")
    return options


def _square_resize(steps: Sequence[Any]) -> tuple[int, str] | None:
    """Of a square image, the middle square after resizing its shorter side is the whole."""
    resize, *crops = steps
    if not isinstance(resize, Resize) or resize.interpolation is not InterpolationMode.BICUBIC:
        return None
    sides = {int(side) for step in steps for side in np.atleast_1d(step.size)}
    plain = len(sides) == 1 and all(isinstance(crop, CenterCrop) for crop in crops)
    return (sides.pop(), "bicubic") if plain else None
