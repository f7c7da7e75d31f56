"""Where and how precisely the models of a process run."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from gmvaluator.errors import PreconditionFailed

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
