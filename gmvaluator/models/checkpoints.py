"""Checkpoints: tensors read from safetensors or PyTorch files without running code that they may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from gmvaluator.errors import MissingWeights

_WRAPPERS = ("params", "state_dict", "model")
"""Keys under which training scripts store a network's tensors, next to their own state."""

_PARALLEL = "module."
"""Prefix of names in a checkpoint of `nn.DataParallel`."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, without wrappers and prefixes. Raises MissingWeights."""
    value = read_plain(path)
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise MissingWeights(f"weights {path} are no dictionary of tensors: give the package's own checkpoint")
    return {str(name).removeprefix(_PARALLEL): tensor for name, tensor in value.items()}


def read_plain(path: Path) -> Any:
    """Return the tensors and plain values of a file. Raises MissingWeights if it holds code or is damaged."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        safetensors.SafetensorError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        raise MissingWeights(
            f"weights {path} are damaged or hold more than tensors: nothing of them was loaded ({error})"[:500]
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors` into `network`; surplus ones are ignored.

    Raises MissingWeights, naming the first tensor that does not fit and both shapes.
    """
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            stored = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is absent"
            raise MissingWeights(
                f"weights {path} are of another architecture: {name} {stored} there, and has shape "
                f"{tuple(tensor.shape)} in {type(network).__name__}"
            )
    network.load_state_dict({name: tensors[name] for name in expected})


def fill_exactly(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors` into `network` like `fill`. Raises MissingWeights also if a tensor is left over."""
    surplus = sorted(tensors.keys() - network.state_dict().keys())
    if surplus:
        raise MissingWeights(
            f"weights {path} are of another architecture: {type(network).__name__} has no {surplus[0]}"
        )
    fill(network, tensors, path)
