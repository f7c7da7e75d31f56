"""Trains the quality head: clean images high, distorted copies lower the stronger they are distorted."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from evaluation.training.distortions import KINDS, distort
from evaluation.training.variants import clean_variant
from evaluation.training.works import Work

HIDDEN_UNITS = 64
CLEAN_TARGET = 0.95
"""Target of a clean image; a distorted copy's falls in a straight line to 0.05 at strength 4."""

_EPOCHS = 60
_BATCH_WORKS = 64
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_DROPOUT = 0.3
_LOGITS_PER_QUALITY = 2.0
"""Lead in logits that is asked of the better of two copies, for each unit of difference between their targets."""

TextureOf = Callable[[Sequence[Image.Image]], Tensor]


@dataclass(frozen=True, slots=True)
class Examples:
    """texture (W, C, F): W works with C copies each. target (W, C) in [0, 1]. fit (W,): which works are trained on."""

    texture: Tensor
    target: Tensor
    fit: npt.NDArray[np.bool_]


def target_quality(strength: float) -> float:
    """Target for a copy distorted with this strength, 0 (clean) to 4."""
    return CLEAN_TARGET - strength * (CLEAN_TARGET - 0.05) / 4


def held_out(artist: str) -> bool:
    """Whether an artist's works serve to watch the training only: about one in seven."""
    return hashlib.sha256(artist.encode()).digest()[0] < 36


def make_examples(works: Sequence[Work], copies: int, texture_of: TextureOf, seed: int) -> Examples:
    """`copies` clean variants of every work, each with one distorted copy of every kind."""
    texture, target = [], []
    for number, work in enumerate(works):
        images, targets = _copies(work.image, copies, random.Random(f"{seed}/{work.name}"))  # noqa: S311
        texture.append(texture_of(images))
        target.append(targets)
        if number % 100 == 0:
            print(f"{number} of {len(works)} works distorted", file=sys.stderr)  # noqa: T201
    fit = np.array([not held_out(work.artist) for work in works])
    return Examples(torch.stack(texture), torch.tensor(target), fit)


def _copies(image: Image.Image, copies: int, rng: random.Random) -> tuple[list[Image.Image], list[float]]:
    images, targets = [], []
    for _ in range(copies):
        clean = clean_variant(image, rng)
        images.append(clean)
        targets.append(CLEAN_TARGET)
        for kind in KINDS:
            strength = 0.4 + 3.6 * rng.random()
            images.append(distort(kind, strength, clean, rng))
            targets.append(target_quality(strength))
    return images, targets


class QualityHead(nn.Module):
    """Two layers on standardised texture; gives logits."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, HIDDEN_UNITS)
        self.output = nn.Linear(HIDDEN_UNITS, 1)

    def forward(self, standard: Tensor) -> Tensor:
        """(..., F) to (...,) logits."""
        thinned = functional.dropout(standard, _DROPOUT, self.training)
        hidden = functional.dropout(functional.gelu(self.hidden(thinned)), _DROPOUT, self.training)
        logits: Tensor = self.output(hidden).squeeze(-1)
        return logits


def fit_quality(examples: Examples, seed: int) -> dict[str, Tensor]:
    """Train a head and return its tensors under the names of `gmvaluator.models.lite_network.HEAD_TENSORS`."""
    torch.manual_seed(seed)
    texture, target = examples.texture[examples.fit], examples.target[examples.fit]
    flat = texture.flatten(0, 1)
    shift, scale = flat.mean(dim=0), flat.std(dim=0) + 1e-3
    head = QualityHead(flat.shape[1])
    _train(head, (texture - shift) / scale, target)
    _report(head.eval(), (examples.texture - shift) / scale, examples)
    return {
        "quality_shift": shift,
        "quality_scale": scale,
        "quality_hidden": head.hidden.weight.detach().T.contiguous(),
        "quality_hidden_bias": head.hidden.bias.detach(),
        "quality_output": head.output.weight.detach()[0],
        "quality_output_bias": head.output.bias.detach()[0],
    }


def _train(head: QualityHead, standard: Tensor, target: Tensor) -> None:
    optimiser = torch.optim.AdamW(head.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    batches = -(-len(standard) // _BATCH_WORKS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE * 3, total_steps=_EPOCHS * batches)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(standard)), _BATCH_WORKS):
            optimiser.zero_grad()
            torch.autograd.backward(loss(head(standard[rows]), target[rows]))
            optimiser.step()
            schedule.step()


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Nearness to the targets, and order within each work: (W, C) logits and targets to a scalar.

    The second term asks of every two copies of one work that the better one leads in proportion to how much better
    it is.
    """
    near = functional.binary_cross_entropy_with_logits(logits, target)
    better = target[:, :, None] - target[:, None, :]
    lead = logits[:, :, None] - logits[:, None, :]
    pairs = better > 0.05
    order = functional.softplus(_LOGITS_PER_QUALITY * better - lead)[pairs].mean()
    return near + 0.5 * order


def _report(head: QualityHead, standard: Tensor, examples: Examples) -> None:
    with torch.inference_mode():
        quality = torch.sigmoid(head(standard))
    for name, rows in (("fitted", examples.fit), ("held-out", ~examples.fit)):
        error = (quality[rows] - examples.target[rows]).abs().mean()
        print(f"{name} artists: {rows.sum()} works, mean error {error:.3f}", file=sys.stderr)  # noqa: T201
