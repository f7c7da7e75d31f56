"""Quality by another no-reference metric of pyiqa than MANIQA, read from a local file.

Input: of each image (3, H, W) uint8, whole, its longer side at most 1024; scaled to [0, 1], float32, on the device.
Output: one quality an image in [0, 1], higher is better: the metric's value mapped linearly from the range that its
`parts.pyiqa.Metric` states, and held to it. MUSIQ and CNNIQA compute in float32 whatever the profile's precision.
Source: package pyiqa (PolyForm-Noncommercial), imported only when it is asked for, and the papers it cites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gmvaluator.errors import ModelFailed
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import METRICS
from gmvaluator.models.maniqa import QualityMemory
from gmvaluator.models.preprocessing import Pixels
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder, fill, read_plain, read_tensors


class PyiqaMetric:
    """`composed.QualityModel`; one image a pass, as their sizes differ."""

    def __init__(self, network: nn.Module, runtime: Runtime, worst: float, best: float) -> None:
        """worst, best: values of the metric that become 0 and 1."""
        self._network = network.eval().to(runtime.device)
        self._device = runtime.device
        self._worst, self._best = worst, best
        self._memory = QualityMemory()

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """Scores the first image that is not known yet. See the protocol."""
        known = [self._memory.of(pixels) for pixels in inputs]
        for row, (pixels, one) in enumerate(zip(inputs, known, strict=True)):
            if not one.crops:
                one.add(self._score(pixels, row), 1.0)
                break
        return [one.weighted if one.crops else None for one in known]

    def _score(self, pixels: Pixels, row: int) -> float:
        image = torch.tensor(pixels, device=self._device).to(torch.float32).div(255)
        value = float(self._network(image[None]).reshape(-1)[0])
        if not math.isfinite(value):
            raise ModelFailed(f"row {row} of the batch gave a quality that is not finite")
        return min(max((value - self._worst) / (self._best - self._worst), 0.0), 1.0)


def load(part: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> PyiqaMetric:
    """See `paper.load`. Raises MissingWeights."""
    name = part.settings["metric"]
    (file,) = part.files
    path = folder.verified(file, hashes[file.role])
    return PyiqaMetric(build(name, path), runtime, METRICS[name].worst, METRICS[name].best)


def build(name: str, path: Path) -> nn.Module:
    """pyiqa's network for a metric of `parts.pyiqa.METRICS` with the weights of `path`; downloads nothing."""
    if name.startswith("musiq"):
        from pyiqa.archs.musiq_arch import MUSIQ

        return _filled(MUSIQ(pretrained=False), path)
    if name == "cnniqa":
        from pyiqa.archs.cnniqa_arch import CNNIQA

        return _filled(CNNIQA(pretrained=None), path)
    if name == "brisque":
        from pyiqa.archs.brisque_arch import BRISQUE

        read_plain(path)  # The package unpickles whatever is there: look first.
        return _module(BRISQUE(pretrained_model_path=str(path)))
    from pyiqa.archs.niqe_arch import NIQE

    return _module(NIQE(pretrained_model_path=str(path)))


def _filled(network: Any, path: Path) -> nn.Module:
    fill(network, read_tensors(path), path)
    return _module(network)


def _module(network: Any) -> nn.Module:
    assert isinstance(network, nn.Module)
    return network.eval().requires_grad_(False)
