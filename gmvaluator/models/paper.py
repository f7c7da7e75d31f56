"""Profile `paper`: the paper's models or their variants, each read from the models folder by its own adapter."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.composed import ComposedModels
from gmvaluator.models.folder import ModelsFolder
from gmvaluator.models.parts.lpips import COMPARES_PIXELS
from gmvaluator.models.parts.part import Part
from gmvaluator.models.parts.selection import parts_of
from gmvaluator.models.pixel_models import PixelComparingModels
from gmvaluator.models.preparation import preparation_of
from gmvaluator.models.runtime import Runtime, usable_device
from gmvaluator.ports import Prepared
from gmvaluator.profile import ProfileIdentity


def load(choice: ProfileChoice, identity: ProfileIdentity, device: str, threads: int | None) -> ComposedModels:
    """See `registry.load_models`. Every file is checked against the identity's hash before it is parsed."""
    if threads is not None:
        torch.set_num_threads(threads)
    runtime = Runtime(usable_device(device), identity.precision)
    folder, hashes, parts = ModelsFolder(choice.models), dict(identity.weights), parts_of(choice)

    def made(part: Part) -> Any:
        """What the part's adapter makes; None for a part without one."""
        return importlib.import_module(part.adapter).load(part, folder, hashes, runtime) if part.adapter else None

    recall, perceptual, quality = made(parts.recall), made(parts.perceptual), made(parts.quality)
    kind = PixelComparingModels if parts.perceptual.model.startswith(COMPARES_PIXELS) else ComposedModels
    return kind(identity, preparation_of(parts), recall, perceptual, quality)


def input_maker(choice: ProfileChoice) -> Callable[[Image.Image], Prepared]:
    """See `registry.input_maker`."""
    return preparation_of(parts_of(choice)).query
