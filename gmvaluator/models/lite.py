"""Profile `lite`: an adapted EfficientNet-Lite0 and two small heads, on several views of each image (`views`).

Backbone (`data/lite-backbone.safetensors`) and heads (`data/lite.safetensors`) were fitted by
`evaluation.training.fit_lite`; `data/lite.LICENSE.md` says what they are made from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import InvalidImage, ModelFailed
from gmvaluator.models.blocks import DTYPES
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.folding import fold
from gmvaluator.models.registry import DATA
from gmvaluator.models.runtime import usable_device
from gmvaluator.models.views import EXTRA_DIM, VIEWS, views_of, weighed_blurs, weighed_windows, whole
from gmvaluator.models.weights import read_pinned
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity

SIDE_PX = 224
"""Side of the model's square input."""

EMBEDDING_DIM = 512
"""Length of recall vectors."""

PERCEPTUAL_DIM = EMBEDDING_DIM + EXTRA_DIM
"""Length of perceptual vectors."""

BLUR_SIGMA_PX = 3.5
"""Of the blurred view of a generated image, at `SIDE_PX`."""

CHUNK_ROWS = 8
"""Rows of one forward pass. Larger ones gain no time on a CPU, take more memory, and leave the caches."""

BACKBONE_FILE = "lite-backbone.safetensors"
HEADS_FILE = "lite.safetensors"
_REMEDY = "reinstall gmvaluator"
_Change = Callable[[Tensor], Tensor]
STAGE_BLOCKS = (0, 1, 2, 4, 6)
"""Blocks that end a resolution: 16, 24, 40, 112 and 320 channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the heads see of B images, float32.

    pooled (B, 1752): mean of each channel of the last three stages and of the last layer. texture (B, 1024): mean and
    standard deviation of each channel of all five stages.
    """

    pooled: Tensor
    texture: Tensor


class Backbone(nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self, state: Mapping[str, Tensor], precision: str = "fp32") -> None:
        """state: the 294 tensors of timm's `tf_efficientnet_lite0` without its classifier, by its names.

        precision: a key of `blocks.DTYPES`, what convolutions compute in.
        """
        super().__init__()
        self.dtype = DTYPES[precision]
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        net.load_state_dict(state)
        fold(net.eval(), self.dtype)
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        self.blocks: nn.Sequential = net.blocks
        self.last = nn.Sequential(net.conv_head, net.bn2)
        self.eval()

    def forward(self, inputs: Tensor) -> Features:
        """(B, 3, 224, 224) float32 in [-1, 1] to features."""
        hidden = self.stem(inputs.to(self.dtype))
        stages = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in STAGE_BLOCKS:
                stages.append(hidden.float())
        moments = [_moments(stage) for stage in stages]
        means = [mean for mean, _ in moments[-3:]]
        texture = torch.cat([values for pair in moments for values in pair], dim=1)
        return Features(torch.cat([*means, self.last(hidden).float().mean(dim=(2, 3))], dim=1), texture)


def _moments(stage: Tensor) -> tuple[Tensor, Tensor]:
    pixels = stage.permute(0, 2, 3, 1).flatten(1, 2)  # A view, as channels come last: (B, H W, C).
    mean = pixels.mean(dim=1)
    deviation = pixels - mean[:, None]
    return mean, (deviation * deviation).mean(dim=1).sqrt()


class Heads(nn.Module):
    """A linear embedding and a two-layer quality head.

    embedding: ((x - shift) / scale) @ projection + bias, scaled to unit norm. quality: sigmoid of a 64-unit hidden
    layer on standardised texture. They work in float64, so that the order of a batch's sums does not show in float32.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in HEAD_TENSORS:
            self.register_buffer(name, tensors[name].to(torch.float64))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Features to embedding (B, 512) and quality (B,), float32."""
        return self._embedding(features.pooled.double()), self._quality(features.texture.double())

    def _embedding(self, pooled: Tensor) -> Tensor:
        standard = self._standard("embedding", pooled)
        projected = standard @ self.get_buffer("embedding_projection") + self.get_buffer("embedding_bias")
        return functional.normalize(projected, dim=1).float()

    def _standard(self, head: str, values: Tensor) -> Tensor:
        return (values - self.get_buffer(f"{head}_shift")) / self.get_buffer(f"{head}_scale")

    def _quality(self, texture: Tensor) -> Tensor:
        standard = self._standard("quality", texture)
        hidden = functional.gelu(standard @ self.get_buffer("quality_hidden") + self.get_buffer("quality_hidden_bias"))
        logits = hidden @ self.get_buffer("quality_output") + self.get_buffer("quality_output_bias")
        return torch.sigmoid(logits).float()


HEAD_TENSORS = (
    "embedding_shift",
    "embedding_scale",
    "embedding_projection",
    "embedding_bias",
    "quality_shift",
    "quality_scale",
    "quality_hidden",
    "quality_hidden_bias",
    "quality_output",
    "quality_output_bias",
)
"""Tensors of `data/lite.safetensors`."""


class LiteModels:
    """`ports.Models` for profile `lite`."""

    def __init__(self, identity: ProfileIdentity, backbone: Backbone, heads: Heads, device: torch.device) -> None:
        self._identity = identity
        self._device = device
        self._backbone = backbone.to(device)
        self._heads = heads.to(device)

    @property
    def identity(self) -> ProfileIdentity:
        return self._identity

    def prepare(self, image: Image.Image) -> Prepared:
        """RGB image of any size to (3, 224, 224) float32 in [-1, 1]: the whole image, centred on white.

        Raises InvalidImage if the image is not RGB.
        """
        return Prepared.shared(prepare(image))

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """B images from `prepare` to embeddings with quality. Raises ModelFailed, naming the row.

        recall is the whole image's embedding; perceptual adds a blurred view: the embedding that tells sources apart
        best also finds most of them.
        """
        rows = _stacked([one.recall for one in inputs])
        embedding, quality = self._passes(rows)
        blurred, _ = self._passes(rows, blur)
        return Embeddings(embedding, np.stack([whole(embedding), weighed_blurs(blurred)], axis=1), quality)

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """RGB training image to the inputs of its ten views, the whole and nine windows. Raises InvalidImage."""
        first = self.prepare(image)
        return [first, *(self.prepare(view) for view in views_of(image)[1:])]

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """B training images from `prepare_work` to embeddings. Raises ModelFailed, naming the row."""
        if any(len(views) != VIEWS for views in inputs):
            raise ModelFailed(f"a training image has {VIEWS} views: give those from prepare_work")
        rows = _stacked([view.recall for views in inputs for view in views])
        embedding, _ = self._passes(rows)
        views = np.where((np.arange(len(rows)) % VIEWS == 0)[:, None], whole(embedding), weighed_windows(embedding))
        return WorkEmbeddings(embedding[::VIEWS].copy(), views.reshape(len(inputs), VIEWS, PERCEPTUAL_DIM))

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """B images from `prepare` to (B,) float32 in [0, 1]; costs a forward pass, so take it from `embed`."""
        return self._passes(_stacked([one.recall for one in inputs]))[1]

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """All at once."""
        return [float(one) for one in self.quality(inputs)]

    def _passes(self, inputs: Float32Array, change: _Change | None = None) -> tuple[Float32Array, Float32Array]:
        """Embedding and quality of rows that are changed first."""
        with _model_failures(), torch.inference_mode():
            chunks = [self._pass(inputs[row : row + CHUNK_ROWS], change) for row in range(0, len(inputs), CHUNK_ROWS)]
        embedding, quality = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        # Below float32 what is not finite may come out as a number (see `folding`), so the inputs are looked at too.
        _check_finite(inputs, embedding, quality)
        return embedding, quality

    def _pass(self, inputs: Float32Array, change: _Change | None) -> tuple[Float32Array, ...]:
        images = to_tensor(inputs, self._device)
        features = self._backbone(images if change is None else change(images))
        return tuple(output.cpu().numpy() for output in self._heads(features))


def input_maker(choice: ProfileChoice) -> Callable[[Image.Image], Prepared]:
    """See `registry.input_maker`."""
    choice.check_no_variant()
    return lambda image: Prepared.shared(prepare(image))


def blur(inputs: Tensor) -> Tensor:
    """(B, C, H, W) seen out of focus: a Gaussian of `BLUR_SIGMA_PX`; the edge goes on as it is."""
    radius = math.ceil(3 * BLUR_SIGMA_PX)
    steps = torch.arange(-radius, radius + 1, dtype=inputs.dtype, device=inputs.device)
    kernel = torch.exp(-0.5 * (steps / BLUR_SIGMA_PX) ** 2)
    kernel = (kernel / kernel.sum()).repeat(inputs.shape[1], 1, 1, 1)
    padded = functional.pad(inputs, (radius,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel, groups=inputs.shape[1])
    return functional.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])


def prepare(image: Image.Image) -> Float32Array:
    """What `LiteModels.prepare` does; needs no models."""
    if image.mode != "RGB":
        raise InvalidImage(f"an image of mode {image.mode} was given: decode it to RGB first")
    pixels = fitted(image, SIDE_PX).astype(np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels / np.float32(127.5) - np.float32(1))


def fitted(image: Image.Image, side_px: int) -> npt.NDArray[np.uint8]:
    """RGB image to (S, S, 3) uint8: the whole image, scaled to fit and centred on white."""
    scale = side_px / max(image.size)
    width, height = (max(round(length * scale), 1) for length in image.size)
    square = Image.new("RGB", (side_px, side_px), (255, 255, 255))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((side_px - width) // 2, (side_px - height) // 2))
    return np.asarray(square)


def to_tensor(inputs: Float32Array, device: torch.device) -> Tensor:
    """(B, 3, H, W) array to a channels-last tensor on `device`, whether or not the array may be written."""
    writeable = inputs if inputs.flags.writeable else inputs.copy()
    return torch.from_numpy(writeable).to(device, memory_format=torch.channels_last)


def load(
    choice: ProfileChoice, identity: ProfileIdentity, device: str = "cpu", threads: int | None = None
) -> LiteModels:
    """See `registry.load_models`."""
    choice.check_no_variant()
    if threads is not None:
        torch.set_num_threads(threads)
    heads = Heads(pinned_tensors(HEADS_FILE, identity.weights["heads"]))
    return LiteModels(identity, load_backbone(identity), heads, usable_device(device))


def load_backbone(identity: ProfileIdentity) -> Backbone:
    """The backbone with its pinned weights. Raises MissingWeights."""
    return Backbone(pinned_tensors(BACKBONE_FILE, identity.weights["backbone"]), identity.precision)


def pinned_tensors(file_name: str, sha256: str) -> dict[str, Tensor]:
    """Tensors of a shipped file; what is stored in half precision is widened where it is put to use."""
    return safetensors.torch.load(read_pinned(DATA / file_name, sha256, _REMEDY))


def _stacked(inputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
    """B inputs to (B, 3, 224, 224). Raises ModelFailed unless they are what `prepare` makes."""
    for one in inputs:
        if one.shape != (3, SIDE_PX, SIDE_PX) or one.dtype != np.float32:
            raise ModelFailed(
                f"an input of shape {one.shape} and type {one.dtype} cannot be embedded: "
                f"give (3, {SIDE_PX}, {SIDE_PX}) float32 from prepare"
            )
    if not inputs:
        raise ModelFailed("no images were given: give at least one from prepare")
    return np.stack(inputs)


def _check_finite(*outputs: Float32Array) -> None:
    rows = np.stack([np.isfinite(output).reshape(len(output), -1).all(axis=1) for output in outputs]).all(axis=0)
    if not rows.all():
        raise ModelFailed(f"row {int(np.argmin(rows))} of the batch gave numbers that are not finite")


@contextmanager
def _model_failures() -> Iterator[None]:
    """The one place where torch's exceptions become ours."""
    try:
        yield
    except RuntimeError as error:
        raise ModelFailed(f"the lite models failed: {error}") from error
