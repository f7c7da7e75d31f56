"""Profile `lite`: one small network (`lite_network`) on several views of each image (`lite_views`).

Input: B x 3 x 224 x 224 float32 in [-1, 1], the whole image on white. Output: recall B x 512, perceptual B x V x 514,
both of unit norm, a higher cosine is nearer; quality B in [0, 1], higher is better. The windows of a generated image
are embedded as well, from one pass over the image at twice that side: means over a window of its feature maps take the
place of means over the whole.

Its quality head also scores images for profiles of other models (`LiteQuality`), from the same input. It was trained
on drawings; see docs/explanation/models.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.local_features.detection import Detector
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.lite_views import (
    EXTRA_DIM,
    LARGE_SIDE_PX,
    SIDE_PX,
    VIEWS,
    pad_whole,
    prepare,
    prepare_large,
    unit_range,
    views_of,
    weight_blurs,
    weight_windows,
)
from gmvaluator.models.lite_weights import (
    BACKBONE_FILE,
    HEADS_FILE,
    Features,
    Heads,
    blur,
    load_detector,
    pinned_tensors,
)
from gmvaluator.models.preprocessing import Pixels
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity
from gmvaluator.windows import WINDOWS

if TYPE_CHECKING:
    from gmvaluator.models.device import Runtime

EMBEDDING_DIM = 512
"""Length of recall vectors."""

PERCEPTUAL_DIM = EMBEDDING_DIM + EXTRA_DIM
"""Length of perceptual vectors."""

CHUNK_ROWS = 8
"""Rows of one forward pass. Larger passes save no time on a CPU, take more memory, and do not fit its caches."""

LARGE_CHUNK_ROWS = 2
"""Rows of one forward pass over images of `LARGE_SIDE_PX`: as many pixels as `CHUNK_ROWS` of the usual side."""


class Backbone(Protocol):
    """A network on the CPU or another device."""

    def __call__(self, images: Float32Array) -> Features:
        """Compute the features of (B, 3, 224, 224) float32 in [-1, 1]. Raises ModelFailed."""

    def maps(self, images: Float32Array) -> Sequence[Float32Array]:
        """Compute the maps that `Features.pooled` are means of: four of (B, C, H, W). Raises ModelFailed."""


_Change = Callable[[Float32Array], Float32Array]


class LiteModels:
    """`ports.Models` for profile `lite`."""

    def __init__(self, identity: ProfileIdentity, backbone: Backbone, heads: Heads, detector: Detector) -> None:
        self._identity = identity
        self._backbone = backbone
        self._heads = heads
        self._detector = detector

    @property
    def identity(self) -> ProfileIdentity:
        return self._identity

    def prepare(self, image: Image.Image, parts: bool = True) -> Prepared:
        """Preprocess a generated image; see `prepare_query`."""
        return prepare_query(image, self._detector, parts)

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B images from `prepare`, with quality. Raises ModelFailed, naming the row.

        recall is the whole image's embedding; perceptual adds a blurred view. Both stages use the same embedding: the
        one that tells sources apart best also finds most of them.
        """
        rows = _stacked([prepared.recall for prepared in inputs])
        # Both views of an image in one pass: two passes of one row take a quarter more time than one of two.
        embedding, quality = self._passes(rows, CHUNK_ROWS // 2, _with_blur)
        whole, blurred = embedding[::2].copy(), embedding[1::2]
        perceptual = np.stack([pad_whole(whole), weight_blurs(blurred)], axis=1)
        return Embeddings(whole, perceptual, quality[::2].copy(), self._windows(inputs))

    def embed_whole(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Embed B images from `prepare` as (B, 512) of unit norm: recall vectors alone, in half `embed`'s time."""
        return self._passes(_stacked([prepared.recall for prepared in inputs]))[0]

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """Preprocess the ten views of an RGB training image. Raises InvalidImage if it is not RGB."""
        whole = replace(Prepared.shared(prepare(image)), local=self._detector.detect_work(image))
        return [whole, *(Prepared.shared(prepare(view)) for view in views_of(image)[1:])]

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

    def _windows(self, inputs: Sequence[Prepared]) -> list[Float32Array]:
        """Embed the windows of each image: (W, 512), or (0, 512) for an image that was prepared without."""
        rows = [row for row, prepared in enumerate(inputs) if prepared.windows is not None]
        windows = [np.empty((0, EMBEDDING_DIM), np.float32)] * len(inputs)
        for start in range(0, len(rows), LARGE_CHUNK_ROWS):
            chunk = rows[start : start + LARGE_CHUNK_ROWS]
            images = unit_range(np.stack([_large(inputs[row]) for row in chunk]))
            embeddings = self._heads.embedding(pool_windows(self._backbone.maps(images)))
            _check_finite(chunk, embeddings)
            for row, rows_of_image in zip(chunk, embeddings.reshape(len(chunk), len(WINDOWS), -1), strict=True):
                windows[row] = rows_of_image
        return windows

    def _passes(
        self, inputs: Float32Array, chunk: int = CHUNK_ROWS, change: _Change | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Return embedding and quality of the rows after `change`, `chunk` rows a forward pass."""
        chunks = [self._pass(inputs[row : row + chunk], change) for row in range(0, len(inputs), chunk)]
        embedding, quality = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        # Below float32 an input that is not finite may give a finite output (see `folding`), so inputs are checked too.
        _check_finite(range(len(inputs)), inputs, embedding, quality)
        return embedding, quality

    def _pass(self, inputs: Float32Array, change: _Change | None) -> tuple[Float32Array, Float32Array]:
        return self._heads(self._backbone(inputs if change is None else change(inputs)))


def load(
    choice: ProfileChoice, identity: ProfileIdentity, device: str = "cpu", threads: int | None = None
) -> LiteModels:
    """Load the profile's models; see `profiles.load_models`."""
    choice.check_no_variant()
    heads = Heads(pinned_tensors(HEADS_FILE, identity.weights["heads"]))
    detector = load_detector(identity)
    state = pinned_tensors(BACKBONE_FILE, identity.weights["backbone"])
    return LiteModels(identity, _load_backbone(state, identity.precision, device, threads), heads, detector)


def prepare_query(image: Image.Image, detector: Detector, parts: bool = True) -> Prepared:
    """Preprocess a generated image of any size: the whole, centred on white; for `parts` at twice the side as well, and
    its local features.

    Raises InvalidImage if the image is not RGB.
    """
    whole = Prepared.shared(prepare(image))
    if not parts:
        return whole
    return replace(whole, windows=prepare_large(image), local=detector.detect_image(image))


def pool_windows(maps: Sequence[Float32Array]) -> npt.NDArray[np.float64]:
    """Return (B · W, 1752): the means over each window of feature maps, four of (B, C, H, W)."""
    pooled = [
        np.einsum("bchw,nhw->bnc", stage, _window_weights(*stage.shape[2:]), optimize=True, dtype=np.float64)
        for stage in maps
    ]
    joined = np.concatenate(pooled, axis=2, dtype=np.float64)
    rows: npt.NDArray[np.float64] = joined.reshape(-1, joined.shape[2])
    return rows


@cache
def _window_weights(height: int, width: int) -> npt.NDArray[np.float64]:
    """Return (W, H, W): how much of each cell of a map a window covers; a window's weights sum to 1."""
    weights = np.stack(
        [np.outer(_covered(box.top, box.bottom, height), _covered(box.left, box.right, width)) for box in WINDOWS]
    )
    return np.asarray(weights / weights.sum(axis=(1, 2), keepdims=True))


def _covered(start: float, end: float, cells: int) -> npt.NDArray[np.float64]:
    edges = np.arange(cells + 1) / cells
    return np.asarray(np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None))


def _large(prepared: Prepared) -> npt.NDArray[Any]:
    """Return the input for windows. Raises ModelFailed unless it is what `prepare` makes."""
    assert prepared.windows is not None
    if prepared.windows.shape != (3, LARGE_SIDE_PX, LARGE_SIDE_PX) or prepared.windows.dtype != np.uint8:
        raise ModelFailed(
            f"windows of shape {prepared.windows.shape} and type {prepared.windows.dtype} cannot be embedded: give "
            f"(3, {LARGE_SIDE_PX}, {LARGE_SIDE_PX}) uint8 from prepare"
        )
    return prepared.windows


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


def _check_finite(images: Sequence[int], *outputs: Float32Array) -> None:
    """Raise ModelFailed, naming the image, if a number is not finite; each image has equally many rows of each output.

    images: their places in the batch.
    """
    rows = np.stack([np.isfinite(output).reshape(len(images), -1).all(axis=1) for output in outputs]).all(axis=0)
    if not rows.all():
        raise ModelFailed(f"row {images[int(np.argmin(rows))]} of the batch gave numbers that are not finite")


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
