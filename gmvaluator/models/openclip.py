"""Recall by CLIP's image tower, built and read by open_clip.

Input: B x 3 x S x S uint8, the pixels of open_clip's own transform for these weights, before it scales and normalises
them (for ViT-B-32: the shorter side to 224, bicubic, and the middle square); scaled to [0, 1] and normalised, float32,
on the device. Output: B x D float32 (ViT-B-32: 512), unit norm; a higher cosine is nearer.
Source: Radford et al. 2021, arXiv 2103.00020; Cherti et al. 2023, arXiv 2212.07143; package open_clip_torch.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
from open_clip.factory import load_state_dict
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from gmvaluator.errors import MissingWeights, PreconditionFailed, UnknownModel
from gmvaluator.models.device import Normalisation, Runtime, unit_range
from gmvaluator.models.fast_layers import fused_patches, optimize_blocks
from gmvaluator.models.preprocessing import Pixels, pixels_of
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Float32Array


class OpenClipTransform:
    """`preprocessing.Preparer`: open_clip's own transform for an architecture and its weights, up to the pixels.

    mean, deviation: of the normalisation that follows on the device, one a channel.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        """Build the transform; settings: fields of open_clip's PreprocessCfg."""
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
        """Convert an RGB image to (3, S, S) uint8."""
        return pixels_of(self._geometry(image))


def openclip_preparer(spec: ModelSpec) -> OpenClipTransform:
    """Return the preparer of `spec`; loads no weights.

    Raises UnknownModel, naming the known tags, or PreconditionFailed for a tag of another activation.
    """
    architecture, tag = spec.settings["architecture"], spec.settings["tag"]
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
    quick_gelu = bool(options.get("quick_gelu", False))
    # The weights would load into either architecture, and give wrong vectors.
    if quick_gelu != bool(configuration.get("quick_gelu", False)):
        other = f"{architecture}-quickgelu" if quick_gelu else architecture.removesuffix("-quickgelu")
        raise PreconditionFailed(f"{architecture}:{tag} was trained with another activation: use {other}:{tag}")
    return options


def _square_resize(steps: Sequence[Any]) -> tuple[int, str] | None:
    """Return (S, "bicubic") if `steps` only resize a square image: the middle square of one is the whole image."""
    resize, *crops = steps
    if not isinstance(resize, Resize) or resize.interpolation is not InterpolationMode.BICUBIC:
        return None
    sides = {int(side) for step in steps for side in np.atleast_1d(step.size)}
    plain = len(sides) == 1 and all(isinstance(crop, CenterCrop) for crop in crops)
    return (sides.pop(), "bicubic") if plain else None


_TEXT_TOWER = ("transformer", "token_embedding", "text", "text_decoder")
"""Attributes of open_clip's models that only texts need."""


class OpenClip:
    """The image tower of a CLIP model of open_clip, as a `composed.Embedder`."""

    def __init__(self, model: Any, transform: OpenClipTransform, runtime: Runtime) -> None:
        """Take over the image tower; model: one of open_clip's, with its weights."""
        for name in _TEXT_TOWER:
            if hasattr(model, name):
                delattr(model, name)  # Half of the memory, and never used.
        self._model = model.eval().requires_grad_(False).to(runtime.device)
        self._optimize(runtime.precision)
        self._runtime = runtime
        self._normalise = Normalisation(transform.mean, transform.deviation, runtime.device)

    def _optimize(self, precision: str) -> None:
        """Replace its transformer's blocks by fused ones; a tower of another kind (ResNet, timm's) stays float32."""
        tower = self._model.visual
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
        if blocks is not None:
            first_token_only = tower.pool_type == "tok" and tower.attn_pool is None and not tower.output_tokens
            optimize_blocks(blocks, precision, first_token_only)
            tower.conv1 = fused_patches(tower.conv1, precision)

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """Embed B arrays from the preparer as (B, D) float32, unit norm."""
        features: Tensor = self._model.encode_image(self._normalise(unit_range(inputs, self._runtime)))
        rows: Float32Array = functional.normalize(features.float(), dim=-1).cpu().numpy()
        return rows


def load(spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> OpenClip:
    """Load the model of `spec`; see `composed.Loader`. Raises UnknownModel, MissingWeights or PreconditionFailed."""
    transform = openclip_preparer(spec)
    (file,) = spec.files
    path = folder.verified(file, hashes[file.role])
    architecture = spec.settings["architecture"]
    # Without `pretrained_text=False` an architecture of another package (transformers) downloads weights of its own.
    with _without_random_weights_warning():
        model = open_clip.create_model(architecture, pretrained_text=False)
    try:
        open_clip.load_checkpoint(model, str(path), weights_only=True)
    except pickle.UnpicklingError as error:
        raise MissingWeights(f"weights {path} hold more than tensors: nothing of them was loaded ({error})") from error
    except (RuntimeError, KeyError, AttributeError, ValueError, StopIteration) as error:
        raise MissingWeights(_mismatch(model, path, architecture)) from error
    return OpenClip(model, transform, runtime)


@contextmanager
def _without_random_weights_warning() -> Iterator[None]:
    """Silence open_clip's warning that a model without weights is random: the weights are loaded next."""

    def keep(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    logging.getLogger().addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(keep)


def _mismatch(model: Any, path: Path, architecture: str) -> str:
    """Describe the first tensor of the image tower whose shape differs, with both shapes."""
    stored = load_state_dict(str(path), weights_only=True)
    for name, tensor in model.state_dict().items():
        if name == "visual.positional_embedding":
            continue  # open_clip scales it to other image sizes.
        if name.startswith("visual.") and (name not in stored or stored[name].shape != tensor.shape):
            state = f"has shape {tuple(stored[name].shape)}" if name in stored else "is absent"
            return (
                f"weights {path} are of another architecture than {architecture}: {name} {state} there, and has shape "
                f"{tuple(tensor.shape)} in {architecture}"
            )
    return f"weights {path} do not fit {architecture}: their text tower is another"
