"""Quality by a no-reference metric of pyiqa other than MANIQA, read from a local file.

Input: each image whole, (3, H, W) uint8, its longer side at most 1024; scaled to [0, 1], float32, on the device.
Output: one quality an image in [0, 1], higher is better: the metric's value mapped linearly from the range in
`known_models.PyiqaMetric`, and clipped. MUSIQ and CNNIQA compute in float32 whatever the profile's precision.
Source: package pyiqa (PolyForm-Noncommercial), imported only when it is used, and the papers it cites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gmvaluator.errors import ModelFailed
from gmvaluator.models.checkpoints import fill, read_plain, read_tensors
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import PYIQA_METRICS
from gmvaluator.models.preprocessing import Pixels
from gmvaluator.models.quality_memory import QualityMemory
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder


class PyiqaQuality:
    """A metric of pyiqa as a `composed.QualityModel`; one image a pass, because their sizes differ."""

    def __init__(self, network: nn.Module, runtime: Runtime, worst: float, best: float) -> None:
        """Put the network on its device; worst, best: values of the metric that become 0 and 1."""
        self._network = network.eval().to(runtime.device)
        self._device = runtime.device
        self._worst, self._best = worst, best
        self._memory = QualityMemory()

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """Score the first image without a score. See the protocol."""
        scores = [self._memory.lookup(pixels) for pixels in inputs]
        for row, (pixels, score) in enumerate(zip(inputs, scores, strict=True)):
            if not score.crops:
                # The whole image counts as one crop of weight 1.
                score.add(self._value(pixels, row), 1.0)
                break
        return [score.weighted if score.crops else None for score in scores]

    def _value(self, pixels: Pixels, row: int) -> float:
        image = torch.tensor(pixels, device=self._device).to(torch.float32).div(255)
        value = float(self._network(image[None]).reshape(-1)[0])
        if not math.isfinite(value):
            raise ModelFailed(f"row {row} of the batch gave a quality that is not finite")
        return min(max((value - self._worst) / (self._best - self._worst), 0.0), 1.0)


def load(spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> PyiqaQuality:
    """Load the model of `spec`; see `composed.Loader`. Raises MissingWeights."""
    name = spec.settings["metric"]
    (file,) = spec.files
    path = folder.verified(file, hashes[file.role])
    return PyiqaQuality(build(name, path), runtime, PYIQA_METRICS[name].worst, PYIQA_METRICS[name].best)


def build(name: str, path: Path) -> nn.Module:
    """Build pyiqa's network for a metric of `known_models.PYIQA_METRICS` with the weights of `path`, offline."""
    if name.startswith("musiq"):
        from pyiqa.archs.musiq_arch import MUSIQ

        return _filled(MUSIQ(pretrained=False), path)
    if name == "cnniqa":
        from pyiqa.archs.cnniqa_arch import CNNIQA

        return _filled(CNNIQA(pretrained=None), path)
    if name == "brisque":
        from pyiqa.archs.brisque_arch import BRISQUE

        read_plain(path)  # The package unpickles the file, code included: refuse one that holds any.
        return _module(BRISQUE(pretrained_model_path=str(path)))
    from pyiqa.archs.niqe_arch import NIQE

    return _module(NIQE(pretrained_model_path=str(path)))


def _filled(network: Any, path: Path) -> nn.Module:
    fill(network, read_tensors(path), path)
    return _module(network)


def _module(network: Any) -> nn.Module:
    assert isinstance(network, nn.Module)
    return network.eval().requires_grad_(False)
