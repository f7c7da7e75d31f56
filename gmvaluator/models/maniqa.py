"""Quality by MANIQA, built by pyiqa and read from a checkpoint of its own format.

Input: of each image its pixels, uint8, (3, H, W), or its crops (N, 3, 224, 224) where those are smaller; scaled to
[0, 1] and normalised, float32, on the device. Output: one quality an image in [0, 1], higher is better: the network's
weighted mean over the patches of all crops, which pyiqa states as "~0, ~1", held to that range.
Source: Yang et al. 2022, arXiv 2204.08958; package pyiqa (PolyForm-Noncommercial), imported only when it is asked for.

What is known of an image's quality, by its content: the same image again costs nothing, a half-scored goes on.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import ModelFailed
from gmvaluator.models.device import Runtime, retry_in_halves
from gmvaluator.models.maniqa_network import ManiqaNetwork
from gmvaluator.models.preprocessing import CROP_SIDE_PX, Pixels, chosen_crops, cut
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder, fill, read_tensors
from gmvaluator.ports import Float32Array

MAX_IMAGES = 10_000
"""About 2 MB; what was asked for least recently is forgotten first."""


@dataclass(slots=True)
class Known:
    """Sums over the crops scored so far. key: hash of the pixels."""

    key: bytes
    weighted: float = 0.0
    weight: float = 0.0
    crops: int = 0

    def add(self, weighted: float, weight: float) -> None:
        """Count one more crop."""
        self.weighted += weighted
        self.weight += weight
        self.crops += 1


class QualityMemory:
    """`Known` by content, bounded. It belongs to one model of one precision: its numbers mean nothing to another."""

    def __init__(self, max_images: int = MAX_IMAGES) -> None:
        self._max_images = max_images
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def of(self, pixels: Pixels) -> Known:
        """What is known of the image with these pixels; to be added to."""
        key = content_hash(pixels)
        known = self._known.setdefault(key, Known(key))
        self._known.move_to_end(key)
        while len(self._known) > self._max_images:
            self._known.popitem(last=False)
        return known

    def forget(self, known: Known) -> None:
        """Begin anew when the image is asked for again."""
        self._known.pop(known.key, None)

    def __len__(self) -> int:
        return len(self._known)


def content_hash(pixels: Pixels) -> bytes:
    """SHA-256 of the shape and the pixels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


METRICS = ("maniqa", "maniqa-pipal", "maniqa-kadid")
SLICE_CROPS, SLICE_CROPS_ON_ACCELERATOR = 4, 40
"""Crops of one forward pass; between two of them whoever has to go first goes first."""


class Maniqa:
    """`composed.QualityModel`. What it knows of an image it keeps by the image's content, finished or not."""

    def __init__(self, network: Any, runtime: Runtime, crops: int = 20) -> None:
        """network: pyiqa's MANIQA with its weights, in eval mode."""
        self._crops = crops
        self._device = runtime.device
        self._slice_crops = SLICE_CROPS if runtime.device.type == "cpu" else SLICE_CROPS_ON_ACCELERATOR
        self._mean, self._deviation = (
            stated[0].to(runtime.device) for stated in (network.default_mean, network.default_std)
        )
        self._network = ManiqaNetwork(network.to(runtime.device), runtime.precision)
        self._memory = QualityMemory()

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """One forward pass on the first crops that are missing, of several images if need be. See the protocol."""
        known = [self._memory.of(pixels) for pixels in inputs]
        todo = list(self._missing(inputs, known))
        if todo:
            sums = retry_in_halves(self._pass, [crop for _, crop in todo], "quality")
            for (row, _), (weighted, weight) in zip(todo, sums.tolist(), strict=True):
                known[row].add(weighted, weight)
        return [self._quality(one, row) for row, one in enumerate(known)]

    def crop_sums(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """(N, 2) of one image: each crop's weighted quality and weight, in pyiqa's order; for measuring."""
        step = self._slice_crops
        with torch.inference_mode():
            parts = [self.crops(pixels, start, start + step) for start in range(0, self._crops, step)]
            return np.concatenate([self._pass(part) for part in parts]).astype(np.float64)

    def _pass(self, crops: Sequence[Tensor]) -> Float32Array:
        """N crops to (N, 2): weighted quality and weight of each."""
        sums: Float32Array = self._network(torch.cat([*crops])).float().cpu().numpy()
        return sums

    def _quality(self, known: Known, row: int) -> float | None:
        if known.crops < self._crops:
            return None
        quality = known.weighted / (known.weight + 1e-8)
        if quality != quality:  # NaN, which no comparison below would show.
            self._memory.forget(known)
            raise ModelFailed(f"row {row} of the batch gave a quality that is not finite")
        return min(max(quality, 0.0), 1.0)

    def _missing(self, inputs: Sequence[Pixels], known: Sequence[Known]) -> Iterator[tuple[int, Tensor]]:
        """The crops of a slice with their rows; the same image twice is looked at once."""
        room, seen = self._slice_crops, set[int]()
        for row, (pixels, one) in enumerate(zip(inputs, known, strict=True)):
            count = min(room, self._crops - one.crops)
            if count > 0 and id(one) not in seen:
                seen.add(id(one))
                room -= count
                yield from ((row, crop) for crop in self.crops(pixels, one.crops, one.crops + count))

    def crops(self, pixels: Pixels, start: int, stop: int) -> Sequence[Tensor]:
        """Crops start to stop of an image, each (1, 3, 224, 224) float32, normalised as the package does."""
        if pixels.ndim == 4:
            return [self._normal(crop[None]) for crop in pixels[start:stop]]
        if min(pixels.shape[1:]) <= CROP_SIDE_PX:  # The package enlarges such an image, so that a crop fits.
            image = self._normal(pixels[None])
            scale = (CROP_SIDE_PX + 1) / min(pixels.shape[1:])
            image = functional.interpolate(image, scale_factor=scale, mode="bilinear")
            return [cut(image, *place) for place in self._places(image.shape)[start:stop]]
        return [self._normal(cut(pixels, *place)[None]) for place in self._places(pixels.shape)[start:stop]]

    def _places(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        return chosen_crops(shape[-2], shape[-1], self._crops)

    def _normal(self, pixels: Pixels) -> Tensor:
        image: Tensor = torch.tensor(pixels, device=self._device).to(torch.float32).div(255)
        normal: Tensor = (image - self._mean) / self._deviation
        return normal


def load(part: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> Maniqa:
    """See `paper.load`. Raises MissingWeights."""
    (file,) = part.files
    path = folder.verified(file, hashes[file.role])
    network = build(part.settings["metric"])
    fill(network, read_tensors(path), path)
    return Maniqa(network, runtime, part.settings["crops"])


def build(metric: str) -> nn.Module:
    """pyiqa's MANIQA for `metric`, one of `METRICS`, without weights and without a download.

    Its constructor asks timm for a pretrained ViT-B/8 (343 MB), whose weights its own checkpoint replaces: it gets an
    untrained one.
    """
    from pyiqa.archs import maniqa_arch
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    options = {**DEFAULT_CONFIGS[metric]["metric_opts"], "pretrained": False}
    del options["type"]
    maniqa_arch.timm = SimpleNamespace(create_model=_untrained)
    try:
        network: nn.Module = maniqa_arch.MANIQA(**options)
    finally:
        maniqa_arch.timm = timm
    return network.eval().requires_grad_(False)


def _untrained(name: str, pretrained: bool) -> nn.Module:  # noqa: ARG001 - the constructor's signature
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network
