"""Where and how precisely the models of a process run.

What happens when a batch does not fit into the device's memory: it is tried once more in two halves.

Pixels between Pillow and a model: prepared as bytes beside it, scaled to its range on its device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor

from gmvaluator.errors import ModelFailed, PreconditionFailed
from gmvaluator.ports import Float32Array

_KNOWN = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Runtime:
    """device: where weights and inputs go. precision: what the models compute in, a key of the identity.

    Raises PreconditionFailed if the device cannot compute in it.
    """

    device: torch.device
    precision: str = "fp32"

    def __post_init__(self) -> None:
        has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if self.precision == "int8" and not (self.device.type == "cpu" and has_onednn):
            raise PreconditionFailed(f"device {self.device} has no int8: use --device cpu, or --precision bf16")


def usable_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda, cuda:N or mps; auto is the first GPU there is, or the CPU.

    Raises PreconditionFailed if there is none of this name, or if nothing can be put on it.
    """
    if not _KNOWN.fullmatch(name):
        raise PreconditionFailed(f"device {name!r} is not known: give auto, cpu, cuda, cuda:N or mps, or use cpu")
    chosen = _best() if name == "auto" else name
    try:
        return torch.zeros(1, device=chosen).device
    except (RuntimeError, AssertionError) as error:
        raise PreconditionFailed(f"device {chosen!r} cannot be used ({error}): use cpu") from error


def device_names(name: str) -> list[str]:
    """Names of the devices that a program which can use several takes: with auto every GPU, else the one named."""
    count = torch.cuda.device_count() if name == "auto" and torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(count)] or [name]


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


In = TypeVar("In")


def retry_in_halves(model: Callable[[Sequence[In]], Float32Array], inputs: Sequence[In], name: str) -> Float32Array:
    """model(inputs), or if the memory does not suffice the rows of both halves, and a warning in the log.

    Raises ModelFailed if a half does not fit either, or if there is but one row.
    """
    try:
        return model(inputs)
    except (torch.OutOfMemoryError, MemoryError) as error:
        if len(inputs) == 1:
            raise ModelFailed(_advice(name, "one image")) from error
    half = (len(inputs) + 1) // 2
    structlog.get_logger().warning("out_of_memory", model=name, images=len(inputs), tried_next=half)
    release_unused()
    try:
        return np.concatenate([model(inputs[:half]), model(inputs[half:])])
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelFailed(_advice(name, f"half of a batch, {half} images,")) from error


def release_unused() -> None:
    """Give back what torch's allocator holds and nobody uses."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _advice(name: str, what: str) -> str:
    return f"the {name} model ran out of memory over {what}: lower --max-batch, or free memory on the device"


def unit_range(inputs: Sequence[npt.NDArray[Any]], runtime: Runtime) -> Tensor:
    """B arrays (3, H, W) uint8 of one shape to (B, 3, H, W) float32 in [0, 1] on the device.

    To the bit what torchvision's ToTensor makes of the same image. Raises ModelFailed for anything else.
    """
    shapes = {(one.shape, one.dtype.name) for one in inputs}
    if len(shapes) != 1 or inputs[0].dtype != np.uint8 or inputs[0].ndim != 3 or len(inputs[0]) != 3:
        raise ModelFailed(f"inputs of {shapes} cannot be embedded together: give (3, H, W) uint8 from prepare")
    return torch.from_numpy(np.stack(inputs)).to(runtime.device).to(torch.float32).div(255)


class Normalisation:
    """(pixels - mean) / standard deviation, a channel."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], device: torch.device) -> None:
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None]
        self._deviation = torch.tensor(deviation, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1] to the model's range."""
        return (pixels - self._mean) / self._deviation
