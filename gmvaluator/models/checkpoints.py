"""Checkpoints: safetensors, or PyTorch's own format, read without running what it may hold."""

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
_PARALLEL = "module."


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, out of the wrapper some packages put around them. Raises MissingWeights."""
    value = read_plain(path)
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not all(isinstance(one, Tensor) for one in value.values()):
        raise MissingWeights(f"weights {path} are no dictionary of tensors: give the package's own checkpoint")
    return {str(name).removeprefix(_PARALLEL): tensor for name, tensor in value.items()}


def read_plain(path: Path) -> Any:
    """Whatever of tensors and plain values the file holds. Raises MissingWeights if there is code in it, or damage."""
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
    """Give `network` its weights. Raises MissingWeights, naming the first tensor that does not fit, and both shapes."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is absent"
            raise MissingWeights(
                f"weights {path} are of another architecture: {name} {found} there, and has shape "
                f"{tuple(tensor.shape)} in {type(network).__name__}"
            )
    network.load_state_dict({name: tensors[name] for name in wanted})


def fill_exactly(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """As `fill`, and nothing may be left over. Raises MissingWeights."""
    surplus = sorted(tensors.keys() - network.state_dict().keys())
    if surplus:
        raise MissingWeights(
            f"weights {path} are of another architecture: {type(network).__name__} has no {surplus[0]}"
        )
    fill(network, tensors, path)
