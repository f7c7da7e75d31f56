"""The networks of profile `lite`: an adapted EfficientNet-Lite0 and two small heads, with their shipped weights.

Backbone (`data/lite-backbone.safetensors`) and heads (`data/lite.safetensors`) were fitted by
`evaluation.training.fit_lite`; `data/lite.LICENSE.md` says what they are made from.

What the networks of profile `lite` look at: the whole image on white, and itself out of focus.

Views: of a training image the whole and nine windows, as a generator may show a part of it alone; of a generated
image the whole and a blurred copy, as it may have another texture than what it was made from.

Two images are as near as their nearest views, and a view that is not the whole image counts for a little less: its
embedding v becomes (w v, sqrt(1 - w²)) with a number more, in which the other side has 0. That is a unit vector again,
and its cosine is w times what it was, so that the index needs to know nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import timm
import torch
from PIL import Image, ImageChops, ImageStat
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import InvalidImage
from gmvaluator.models.fast_layers import DTYPES
from gmvaluator.models.folding import fold
from gmvaluator.models.profiles import DATA
from gmvaluator.models.weight_files import read_pinned
from gmvaluator.ports import Float32Array
from gmvaluator.profile import ProfileIdentity

BACKBONE_FILE = "lite-backbone.safetensors"
HEADS_FILE = "lite.safetensors"
_REMEDY = "reinstall gmvaluator"
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


def load_backbone(identity: ProfileIdentity) -> Backbone:
    """The backbone with its pinned weights. Raises MissingWeights."""
    return Backbone(pinned_tensors(BACKBONE_FILE, identity.weights["backbone"]), identity.precision)


def pinned_tensors(file_name: str, sha256: str) -> dict[str, Tensor]:
    """Tensors of a shipped file; what is stored in half precision is widened where it is put to use."""
    return safetensors.torch.load(read_pinned(DATA / file_name, sha256, _REMEDY))


SIDE_PX = 224
"""Side of the networks' square input."""

BLUR_SIGMA_PX = 3.5
"""Of the blurred view of a generated image, at `SIDE_PX`."""


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


WINDOW_SHARE = 0.55
"""Side of a window against the longer side of what is drawn."""

GRID = 3
"""Windows across and down."""

VIEWS = 1 + GRID * GRID

WINDOW_WEIGHT, BLUR_WEIGHT = 0.9, 0.95
"""What the cosine of such a view is multiplied by."""

EXTRA_DIM = 2
"""Numbers that weighing adds: one for views of training images, one for views of generated ones."""

MIN_CONTRAST = 20
"""Mean standard deviation of a window's channels, of 255 levels; a window with less shows next to nothing, and would be
near to every plain ground and to noise: the whole image stands in for it."""

_MAX_SIDE_PX = 1024
_WHITE = (255, 255, 255)
_PAPER_TOLERANCE = 12
_MIN_SIDE_PX = 8


def views_of(image: Image.Image) -> list[Image.Image]:
    """The RGB image, and nine square windows of it, row by row; what lies outside the image is white.

    A very large image is reduced first: windows are more than twice the side of a model's input even so.
    """
    image = _reduced(image)
    left, top, right, bottom = drawn_box(image)
    side_px = max(round(WINDOW_SHARE * max(right - left, bottom - top)), _MIN_SIDE_PX)
    across, down = _starts(left, right, side_px), _starts(top, bottom, side_px)
    windows = [_window(image, x, y, side_px) for y in down for x in across]
    return [image, *(window if _contrast(window) >= MIN_CONTRAST else image for window in windows)]


def _reduced(image: Image.Image) -> Image.Image:
    if max(image.size) <= _MAX_SIDE_PX:
        return image
    smaller = image.copy()
    smaller.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.BICUBIC)
    return smaller


def _contrast(image: Image.Image) -> float:
    return sum(ImageStat.Stat(image).stddev) / len(image.getbands())


def drawn_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of everything that is not white; the whole image if all is white."""
    ink = ImageChops.invert(image.convert("L")).point([0] * _PAPER_TOLERANCE + [255] * (256 - _PAPER_TOLERANCE))
    return ink.getbbox() or (0, 0, *image.size)


def _starts(low: int, high: int, side_px: int) -> list[int]:
    """Where the windows begin, spread over low..high; all in the middle where a window is the larger."""
    slack_px = high - low - side_px
    return [round(low + slack_px * (place / (GRID - 1) if slack_px > 0 else 0.5)) for place in range(GRID)]


def _window(image: Image.Image, x: int, y: int, side_px: int) -> Image.Image:
    window = Image.new("RGB", (side_px, side_px), _WHITE)
    window.paste(image, (-x, -y))
    return window


def whole(embeddings: Float32Array) -> Float32Array:
    """(N, D) of whole images to (N, D + 2)."""
    return np.pad(embeddings, ((0, 0), (0, EXTRA_DIM)))


def weighed_windows(embeddings: Float32Array) -> Float32Array:
    """(N, D) of windows of training images to (N, D + 2), unit norm."""
    return _weighed(embeddings, WINDOW_WEIGHT, 0)


def weighed_blurs(embeddings: Float32Array) -> Float32Array:
    """(N, D) of blurred copies of generated images to (N, D + 2), unit norm."""
    return _weighed(embeddings, BLUR_WEIGHT, 1)


def _weighed(embeddings: Float32Array, weight: float, place: int) -> Float32Array:
    extra = np.zeros((len(embeddings), EXTRA_DIM), np.float32)
    extra[:, place] = np.sqrt(1 - weight**2)
    return np.concatenate([embeddings * np.float32(weight), extra], axis=1)
