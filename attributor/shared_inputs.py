"""Where arrays lie in the memory that the attributor shares with its models' process."""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Place(NamedTuple):
    """One array: its first byte, numpy's name of its dtype, its shape."""

    start: int
    dtype: str
    shape: tuple[int, ...]


def view_of(memory: mmap.mmap | None, place: Place) -> Array:
    """The array at `place`; no copy."""
    if memory is None:
        raise ValueError("the memory is not mapped")
    count = int(np.prod(place.shape))
    return np.frombuffer(memory, place.dtype, count, place.start).reshape(place.shape)
