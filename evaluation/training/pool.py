"""Derivatives by the recipes that may be fitted on, made once and picked from at every step of the training."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from evaluation.recipes import KINDS, STRENGTHS, derive, source_count
from evaluation.training.works import Work, as_input


def make_pool(works: Sequence[Work], side_px: int, seed: int) -> Tensor:
    """(N, 5, 3, S, S) uint8: one derivative of each work by each of `recipes.KINDS`, of random strength."""
    pool = torch.empty((len(works), len(KINDS), 3, side_px, side_px), dtype=torch.uint8)
    for row, work in enumerate(works):
        rng = random.Random(f"{seed}/pool/{work.name}")  # noqa: S311 - must be reproducible
        for column, kind in enumerate(KINDS):
            pool[row, column] = torch.from_numpy(_derived(kind, work.image, works, side_px, rng))
        if row % 200 == 0:
            print(f"{row} of {len(works)} works derived", file=sys.stderr, flush=True)  # noqa: T201
    return pool


def _derived(
    kind: str, image: Image.Image, works: Sequence[Work], side_px: int, rng: random.Random
) -> npt.NDArray[np.uint8]:
    others = [rng.choice(works).image for _ in range(source_count(kind) - 1)]
    return as_input(derive(kind, rng.choice(STRENGTHS), [image, *others], rng), side_px)
