"""Quality by MANIQA, built by pyiqa and read from a checkpoint of its own format.

Input: each image's pixels, uint8, (3, H, W), or its crops (N, 3, 224, 224) where those are smaller; scaled to [0, 1]
and normalised, float32, on the device. Output: one quality an image in [0, 1], higher is better: the network's
weighted mean over the patches of all crops, which pyiqa states as "~0, ~1", clipped to that range.
Source: Yang et al. 2022, arXiv 2204.08958; package pyiqa (PolyForm-Noncommercial), imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.errors import ModelFailed
from gmvaluator.models.checkpoints import fill, read_tensors
from gmvaluator.models.device import Runtime, retry_in_halves
from gmvaluator.models.known_models import ALL_CROPS
from gmvaluator.models.maniqa_network import ManiqaNetwork
from gmvaluator.models.preprocessing import CROP_SIDE_PX, Pixels, chosen_crops, cut
from gmvaluator.models.quality_memory import PartialScore, QualityMemory
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Float32Array

SLICE_CROPS, SLICE_CROPS_ON_ACCELERATOR = 4, 40
"""Crops of one forward pass, on a CPU and on an accelerator. Embeddings, which callers wait for, run between passes."""


class Maniqa:
    """MANIQA as a `composed.QualityModel`. It remembers scores by the image's content, complete or partial."""

    def __init__(
        self, network: Any, runtime: Runtime, crops: int = ALL_CROPS, memory: QualityMemory | None = None
    ) -> None:
        """Prepare the network for inference.

        network: pyiqa's MANIQA with its weights, in eval mode. crops: how many of each image are scored. memory: a new
        one if absent.
        """
        self._crops = crops
        self._device = runtime.device
        self._slice_crops = SLICE_CROPS if runtime.device.type == "cpu" else SLICE_CROPS_ON_ACCELERATOR
        self._mean, self._deviation = (
            moment[0].to(runtime.device) for moment in (network.default_mean, network.default_std)
        )
        self._network = ManiqaNetwork(network.to(runtime.device), runtime.precision)
        self._memory = QualityMemory() if memory is None else memory

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """Score the first crops that are missing in one pass, of several images if they fit. See the protocol."""
        scores = [self._memory.lookup(pixels) for pixels in inputs]
        missing = list(self._missing(inputs, scores))
        if missing:
            sums = retry_in_halves(self._pass, [crop for _, crop in missing], "quality")
            for (row, _), (weighted, weight) in zip(missing, sums.tolist(), strict=True):
                scores[row].add(weighted, weight)
        return [self._quality(score, row) for row, score in enumerate(scores)]

    def crop_sums(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """Return (N, 2) of one image: each crop's weighted quality and weight, in pyiqa's order; for benchmarks."""
        step = self._slice_crops
        with torch.inference_mode():
            slices = [self.crops(pixels, start, start + step) for start in range(0, self._crops, step)]
            return np.concatenate([self._pass(crops) for crops in slices]).astype(np.float64)

    def _pass(self, crops: Sequence[Tensor]) -> Float32Array:
        """Return (N, 2) of N crops: the weighted quality and the weight of each."""
        sums: Float32Array = self._network(torch.cat([*crops])).float().cpu().numpy()
        return sums

    def _quality(self, score: PartialScore, row: int) -> float | None:
        if score.crops < self._crops:
            return None
        # pyiqa adds the same 1e-8.
        quality = score.weighted / (score.weight + 1e-8)
        if quality != quality:  # NaN, which `min` and `max` below would hide.
            self._memory.forget(score)
            raise ModelFailed(f"row {row} of the batch gave a quality that is not finite")
        return min(max(quality, 0.0), 1.0)

    def _missing(self, inputs: Sequence[Pixels], scores: Sequence[PartialScore]) -> Iterator[tuple[int, Tensor]]:
        """Yield the crops of a slice with their rows; an image that is in the batch twice is scored once."""
        room, taken = self._slice_crops, set[bytes]()
        for row, (pixels, score) in enumerate(zip(inputs, scores, strict=True)):
            count = min(room, self._crops - score.crops)
            if count > 0 and score.key not in taken:
                taken.add(score.key)
                room -= count
                yield from ((row, crop) for crop in self.crops(pixels, score.crops, score.crops + count))

    def crops(self, pixels: Pixels, start: int, stop: int) -> Sequence[Tensor]:
        """Return crops start to stop of an image, each (1, 3, 224, 224) float32, normalised as the package does."""
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


def load(spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> Maniqa:
    """Load the model of `spec`; see `composed.Loader`. Raises MissingWeights."""
    (file,) = spec.files
    path = folder.verified(file, hashes[file.role])
    network = build(spec.settings["metric"])
    fill(network, read_tensors(path), path)
    return Maniqa(network, runtime, spec.settings["crops"])


def build(metric: str) -> nn.Module:
    """Build pyiqa's MANIQA for `metric` (maniqa, maniqa-pipal or maniqa-kadid), without weights or a download."""
    from pyiqa.archs import maniqa_arch
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    options = {**DEFAULT_CONFIGS[metric]["metric_opts"], "pretrained": False}
    del options["type"]
    # Its constructor has timm download a pretrained ViT-B/8 (343 MB), whose weights its own checkpoint then replaces.
    maniqa_arch.timm = SimpleNamespace(create_model=_untrained)
    try:
        network: nn.Module = maniqa_arch.MANIQA(**options)
    finally:
        maniqa_arch.timm = timm
    return network.eval().requires_grad_(False)


def _untrained(name: str, pretrained: bool) -> nn.Module:  # noqa: ARG001 - the constructor's signature
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network
