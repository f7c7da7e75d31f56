"""Profile `lite`: one small network (`lite_network`) on several views of each image (`lite_views`).

Input: B x 3 x 224 x 224 float32 in [-1, 1], the whole image on white. Output: recall B x 512, perceptual B x V x 514,
both of unit norm, a higher cosine is nearer; quality B in [0, 1], higher is better.

Its quality head also scores images for profiles of other models (`LiteQuality`), from the same input. It was trained
on drawings; see docs/explanation/models.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.lite_views import (
    EXTRA_DIM,
    SIDE_PX,
    VIEWS,
    pad_whole,
    prepare,
    views_of,
    weight_blurs,
    weight_windows,
)
from gmvaluator.models.lite_weights import BACKBONE_FILE, HEADS_FILE, Features, Heads, blur, pinned_tensors
from gmvaluator.models.preprocessing import Pixels
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from gmvaluator.models.device import Runtime

EMBEDDING_DIM = 512
"""Length of recall vectors."""

PERCEPTUAL_DIM = EMBEDDING_DIM + EXTRA_DIM
"""Length of perceptual vectors."""

CHUNK_ROWS = 8
"""Rows of one forward pass. Larger passes save no time on a CPU, take more memory, and do not fit its caches."""

Backbone = Callable[[Float32Array], Features]
"""A network that computes the features of (B, 3, 224, 224) float32 in [-1, 1]; raises ModelFailed."""

_Change = Callable[[Float32Array], Float32Array]


class LiteModels:
    """`ports.Models` for profile `lite`."""

    def __init__(self, identity: ProfileIdentity, backbone: Backbone, heads: Heads) -> None:
        self._identity = identity
        self._backbone = backbone
        self._heads = heads

    @property
    def identity(self) -> ProfileIdentity:
        return self._identity

    def prepare(self, image: Image.Image) -> Prepared:
        """Preprocess an RGB image of any size to (3, 224, 224) float32 in [-1, 1]: the whole image, centred on white.

        Raises InvalidImage if the image is not RGB.
        """
        return Prepared.shared(prepare(image))

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B images from `prepare`, with quality. Raises ModelFailed, naming the row.

        recall is the whole image's embedding; perceptual adds a blurred view. Both stages use the same embedding: the
        one that tells sources apart best also finds most of them.
        """
        rows = _stacked([prepared.recall for prepared in inputs])
        # Both views of an image in one pass: two passes of one row take a quarter more time than one of two.
        embedding, quality = self._passes(rows, CHUNK_ROWS // 2, _with_blur)
        whole, blurred = embedding[::2].copy(), embedding[1::2]
        return Embeddings(whole, np.stack([pad_whole(whole), weight_blurs(blurred)], axis=1), quality[::2].copy())

    def embed_whole(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Embed B images from `prepare` as (B, 512) of unit norm: recall vectors alone, in half `embed`'s time."""
        return self._passes(_stacked([prepared.recall for prepared in inputs]))[0]

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """Preprocess the ten views of an RGB training image. Raises InvalidImage if it is not RGB."""
        first = self.prepare(image)
        return [first, *(self.prepare(view) for view in views_of(image)[1:])]

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Embed B training images from `prepare_work`. Raises ModelFailed, naming the row."""
        if any(len(views) != VIEWS for views in inputs):
            raise ModelFailed(f"a training image has {VIEWS} views: give those from prepare_work")
        rows = _stacked([view.recall for views in inputs for view in views])
        embedding, _ = self._passes(rows)
        is_whole = np.arange(len(rows)) % VIEWS == 0
        views = np.where(is_whole[:, None], pad_whole(embedding), weight_windows(embedding))
        return WorkEmbeddings(embedding[::VIEWS].copy(), views.reshape(len(inputs), VIEWS, PERCEPTUAL_DIM))

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Score B images from `prepare`: (B,) float32 in [0, 1]. Takes a forward pass; `embed` returns it as well."""
        return self._passes(_stacked([prepared.recall for prepared in inputs]))[1]

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """Score all images at once."""
        return [float(quality) for quality in self.quality(inputs)]

    def _passes(
        self, inputs: Float32Array, chunk: int = CHUNK_ROWS, change: _Change | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Return embedding and quality of the rows after `change`, `chunk` rows a forward pass."""
        chunks = [self._pass(inputs[row : row + chunk], change) for row in range(0, len(inputs), chunk)]
        embedding, quality = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        # Below float32 an input that is not finite may give a finite output (see `folding`), so inputs are checked too.
        _check_finite(len(inputs), inputs, embedding, quality)
        return embedding, quality

    def _pass(self, inputs: Float32Array, change: _Change | None) -> tuple[Float32Array, Float32Array]:
        return self._heads(self._backbone(inputs if change is None else change(inputs)))


def load(
    choice: ProfileChoice, identity: ProfileIdentity, device: str = "cpu", threads: int | None = None
) -> LiteModels:
    """Load the profile's models; see `profiles.load_models`."""
    choice.check_no_variant()
    heads = Heads(pinned_tensors(HEADS_FILE, identity.weights["heads"]))
    state = pinned_tensors(BACKBONE_FILE, identity.weights["backbone"])
    return LiteModels(identity, _load_backbone(state, identity.precision, device, threads), heads)


def _load_backbone(state: Mapping[str, npt.NDArray[Any]], precision: str, device: str, threads: int | None) -> Backbone:
    if device == "cpu" and precision == "fp32":
        from gmvaluator.models.lite_onnx import OnnxBackbone

        return OnnxBackbone(state, threads)
    import torch

    from gmvaluator.models.device import Runtime, usable_device
    from gmvaluator.models.lite_network import TorchBackbone

    if threads is not None:
        torch.set_num_threads(threads)
    return TorchBackbone(state, Runtime(usable_device(device), precision))


def _with_blur(images: Float32Array) -> Float32Array:
    """Turn (B, C, H, W) into (2 B, C, H, W): each image, followed by its blurred copy."""
    both = np.stack([images, blur(images)], axis=1)
    return both.reshape(-1, *images.shape[1:])


def _stacked(inputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
    """Stack B inputs to (B, 3, 224, 224). Raises ModelFailed unless they are what `prepare` makes."""
    for prepared in inputs:
        if prepared.shape != (3, SIDE_PX, SIDE_PX) or prepared.dtype != np.float32:
            raise ModelFailed(
                f"an input of shape {prepared.shape} and type {prepared.dtype} cannot be embedded: "
                f"give (3, {SIDE_PX}, {SIDE_PX}) float32 from prepare"
            )
    if not inputs:
        raise ModelFailed("no images were given: give at least one from prepare")
    return np.stack(inputs)


def _check_finite(count: int, *outputs: Float32Array) -> None:
    """Raise ModelFailed, naming the image, if a number is not finite; each of `count` images has equally many rows."""
    rows = np.stack([np.isfinite(output).reshape(count, -1).all(axis=1) for output in outputs]).all(axis=0)
    if not rows.all():
        raise ModelFailed(f"row {int(np.argmin(rows))} of the batch gave numbers that are not finite")


class LiteQuality:
    """`composed.QualityModel` by the head of profile `lite`; a batch is one pass."""

    def __init__(self, backbone: Backbone, heads: Heads) -> None:
        self._backbone, self._heads = backbone, heads

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """Score all images in one pass, so that no slice is left. See the protocol."""
        _, quality = self._heads(self._backbone(np.stack(inputs)))
        return [float(value) for value in quality]


def load_lite_quality(
    spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime
) -> LiteQuality:
    """Load the model of `spec`; see `composed.Loader`. Raises MissingWeights."""
    from gmvaluator.models.lite_network import TorchBackbone

    backbone, heads = (safetensors.numpy.load_file(folder.verified(file, hashes[file.role])) for file in spec.files)
    return LiteQuality(TorchBackbone(backbone, runtime), Heads(heads))
