"""Selection of the device that models run on, its precision, retries when memory runs out, and transfer of pixels.

A batch that does not fit into the device's memory is retried once in two halves. Pixels are transferred as uint8, a
quarter of the bytes of float32, and scaled to a model's range on the device.
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
    """A device, and the precision in which models compute on it.

    device: of weights and inputs. precision: a key of `fast_layers.DTYPES`, part of the identity. Raises
    PreconditionFailed if the device cannot compute in it.
    """

    device: torch.device
    precision: str = "fp32"

    def __post_init__(self) -> None:
        has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if self.precision == "int8" and not (self.device.type == "cpu" and has_onednn):
            raise PreconditionFailed(f"device {self.device} has no int8: use --device cpu, or --precision bf16")


def usable_device(name: str) -> torch.device:
    """Return the device called auto, cpu, cuda, cuda:N or mps; auto is the first GPU, or the CPU if there is none.

    Raises PreconditionFailed if no device has this name, or if it cannot be used.
    """
    if not _KNOWN.fullmatch(name):
        raise PreconditionFailed(f"device {name!r} is not known: give auto, cpu, cuda, cuda:N or mps, or use cpu")
    chosen = best_device() if name == "auto" else name
    try:
        # Allocating shows faults (a driver, a device that is full or taken) that the name alone does not.
        return torch.zeros(1, device=chosen).device
    except (RuntimeError, AssertionError) as error:
        raise PreconditionFailed(f"device {chosen!r} cannot be used ({error}): use cpu") from error


def device_names(name: str) -> list[str]:
    """Return the names of the devices to use at once: every GPU for auto, else the one named."""
    count = torch.cuda.device_count() if name == "auto" and torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(count)] or [name]


def best_device() -> str:
    """Return the name of the first GPU's kind, cuda or mps; cpu if there is none."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


In = TypeVar("In")


def retry_in_halves(model: Callable[[Sequence[In]], Float32Array], inputs: Sequence[In], name: str) -> Float32Array:
    """Return model(inputs); if memory runs out, the rows of both halves, and log a warning.

    Raises ModelFailed if a half does not fit either, or if there is only one row.
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
    """Release the device memory that torch's allocator caches and no tensor uses."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _advice(name: str, what: str) -> str:
    return f"the {name} model ran out of memory over {what}: lower --max-batch, or free memory on the device"


def unit_range(inputs: Sequence[npt.NDArray[Any]], runtime: Runtime) -> Tensor:
    """Turn B arrays (3, H, W) uint8 of one shape into (B, 3, H, W) float32 in [0, 1] on the device.

    The values equal torchvision's ToTensor of the same image, to the bit. Raises ModelFailed for other inputs.
    """
    shapes = {(pixels.shape, pixels.dtype.name) for pixels in inputs}
    if len(shapes) != 1 or inputs[0].dtype != np.uint8 or inputs[0].ndim != 3 or len(inputs[0]) != 3:
        raise ModelFailed(f"inputs of {shapes} cannot be embedded together: give (3, H, W) uint8 from prepare")
    return torch.from_numpy(np.stack(inputs)).to(runtime.device).to(torch.float32).div(255)


class Normalisation:
    """A normalisation of pixels: (pixels - mean) / standard deviation, each of a channel."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], device: torch.device) -> None:
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None]
        self._deviation = torch.tensor(deviation, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) float32 in [0, 1]."""
        return (pixels - self._mean) / self._deviation
