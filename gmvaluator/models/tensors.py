"""Tensors from a file that comes from outside: safetensors, or a pickle of tensors and nothing else."""

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


def read_tensors(path: Path) -> Any:
    """What `path` holds, on the CPU: tensors by name, or a dictionary around them.

    Raises MissingWeights if the file is damaged, or is a pickle that would run code; then none of it was run.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MissingWeights(f"weights {path} hold more than tensors: nothing of them was loaded ({error})") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise MissingWeights(f"weights {path} cannot be read ({error}): delete the file and fetch it again") from error


def load_strictly(module: nn.Module, stored: Mapping[str, Tensor], path: Path) -> None:
    """Fill `module`, every tensor. Raises MissingWeights, naming both shapes of the first that differs."""
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        found = stored.get(name)
        if found is None or found.shape != tensor.shape:
            there = "absent" if found is None else f"of shape {tuple(found.shape)}"
            raise MissingWeights(
                f"weights {path} are of another architecture: {name} is {there} there, of shape {tuple(tensor.shape)} "
                "in the model"
            )
    surplus = sorted(stored.keys() - wanted.keys())
    if surplus:
        raise MissingWeights(f"weights {path} are of another architecture: the model has no {surplus[0]}")
    module.load_state_dict(stored)
