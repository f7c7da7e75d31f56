"""Quality by MANIQA, built by pyiqa and read from a checkpoint of its own format.

Input: of each image its pixels, uint8, (3, H, W), or its crops (N, 3, 224, 224) where those are smaller; scaled to
[0, 1] and normalised, float32, on the device. Output: (B,) float32 in [0, 1], higher is better: the network's weighted
mean over the patches of all crops, which pyiqa states as "~0, ~1", held to that range.
Source: Yang et al. 2022, arXiv 2204.08958; package pyiqa (PolyForm-Noncommercial), imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.models.crops import SIDE_PX, chosen_crops, cut, prepared_pixels
from gmvaluator.models.maniqa_network import ManiqaNetwork

METRICS = ("maniqa", "maniqa-pipal", "maniqa-kadid")
SLICE_CROPS = 4
"""Crops of one forward pass; between two of them whoever has to go first goes first."""

Pixels = npt.NDArray[np.uint8]


class Maniqa:
    """`composed.QualityModel`; one owner thread calls `quality`."""

    def __init__(self, network: Any, device: torch.device, crops: int = 20, precision: str = "fp32") -> None:
        """network: pyiqa's MANIQA with its weights, in eval mode."""
        self._crops = crops
        self._device = device
        self._mean, self._deviation = network.default_mean.to(device), network.default_std.to(device)
        self._network = ManiqaNetwork(network.to(device), precision)

    def prepare(self, image: Any) -> Pixels:
        """RGB image to what `quality` takes. Thread-safe."""
        return prepared_pixels(np.asarray(image).transpose(2, 0, 1), self._crops)

    def quality(self, inputs: Sequence[Pixels], between: Callable[[], None] = lambda: None) -> npt.NDArray[np.float32]:
        """B inputs to (B,); crops of several images share a pass. `between` is called after every pass but the last."""
        sums = torch.zeros(len(inputs), 2, dtype=torch.float64)
        waiting = self._all_crops(inputs)
        group = list(islice(waiting, SLICE_CROPS))
        while group:
            rows = torch.tensor([row for row, _ in group])
            sums.index_add_(0, rows, self._network(torch.cat([crop for _, crop in group])).double().cpu())
            group = list(islice(waiting, SLICE_CROPS))
            if group:
                between()
        quality = sums[:, 0] / (sums[:, 1] + 1e-8)
        return quality.clamp(0, 1).float().numpy()

    def _all_crops(self, inputs: Sequence[Pixels]) -> Iterator[tuple[int, Tensor]]:
        for row, pixels in enumerate(inputs):
            image = torch.from_numpy(np.array(pixels)).to(self._device).to(torch.float32).div(255)
            normal = (image - self._mean[0]) / self._deviation[0]
            for crop in normal.split(1) if normal.ndim == 4 else self._cut(normal):
                yield row, crop

    def _cut(self, image: Tensor) -> Iterator[Tensor]:
        """The chosen crops of a normalised image (3, H, W), enlarged first if they do not fit."""
        image = image[None]
        if min(image.shape[-2:]) <= SIDE_PX:
            scale = (SIDE_PX + 1) / min(image.shape[-2:])
            image = functional.interpolate(image, scale_factor=scale, mode="bilinear")
        height, width = image.shape[-2:]
        for top, left in chosen_crops(height, width, self._crops):
            yield cut(image, top, left)


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
