"""What happens when a batch does not fit into the device's memory: it is tried once more in two halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import structlog
import torch

from gmvaluator.errors import ModelFailed
from gmvaluator.ports import Float32Array

In = TypeVar("In")


def halved_if_needed(model: Callable[[Sequence[In]], Float32Array], inputs: Sequence[In], name: str) -> Float32Array:
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
