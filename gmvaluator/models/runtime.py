"""Where and how precisely the models of a process run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gmvaluator.errors import PreconditionFailed


@dataclass(frozen=True, slots=True)
class Runtime:
    """device: where weights and inputs go. precision: what the models compute in, a key of the identity."""

    device: torch.device
    precision: str = "fp32"


def usable_device(name: str) -> torch.device:
    """The device called `name`. Raises PreconditionFailed if nothing can be put on it."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PreconditionFailed(f"device {name!r} cannot be used ({error}): use cpu") from error
