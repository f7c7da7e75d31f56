"""What training is chosen by: works of held-out artists, derived by the recipes that may be fitted on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from evaluation.recipes import KINDS, STRENGTHS, derive, source_count
from evaluation.training.embedder import Embedder
from evaluation.training.works import Work, as_input

_TEMPERATURES = tuple(0.02 * 1.15**step for step in range(16))


@dataclass(frozen=True, slots=True)
class Scores:
    """In [0, 1], higher is better: derivatives whose work is nearest; mean share of the work under the softmax at the
    likeliest temperature; area under the curve that tells works in the index from works that are not."""

    source_first: float
    credit: float
    absent_auc: float


@dataclass(frozen=True, slots=True)
class Validation:
    """index: (N, 3, S, S) uint8 works. present: derivatives, rows their works. absent: of works not in the index."""

    index: Tensor
    present: Tensor
    rows: Tensor
    absent: Tensor

    def score(self, embedder: Embedder) -> Scores:
        """Exact search by cosine."""
        index, present, absent = (embedder.embed_all(images) for images in (self.index, self.present, self.absent))
        cosines = present @ index.T
        nearest = torch.cat([cosines.amax(dim=1), (absent @ index.T).amax(dim=1)])
        labels = [1] * len(present) + [0] * len(absent)
        source = cosines.gather(1, self.rows[:, None])
        return Scores(
            round(float((cosines.argmax(dim=1) == self.rows).float().mean()), 4),
            round(_credit(cosines, source), 4),
            round(float(roc_auc_score(labels, nearest.numpy())), 4),
        )


def _credit(cosines: Tensor, source: Tensor) -> float:
    logs = [(source / t - torch.logsumexp(cosines / t, dim=1, keepdim=True)) for t in _TEMPERATURES]
    return float(max(logs, key=lambda log: float(log.mean())).exp().mean())


def make_validation(held: Sequence[Work], trained: Sequence[Work], side: int, seed: int) -> Validation:
    """The works of half of the held-out artists and enough trained ones make the index; the other half is absent."""
    rng = random.Random(f"{seed}/validation")  # noqa: S311 - must be reproducible
    artists = sorted({work.artist for work in held})
    absent = set(rng.sample(artists, len(artists) // 2))
    known = [work for work in held if work.artist not in absent]
    unknown = [work for work in held if work.artist in absent]
    index = [*known, *rng.sample(trained, max(min(1_050 - len(known), len(trained)), 0))]
    kinds = [kind for kind in KINDS if source_count(kind) == 1]
    derived = [
        derive(kinds[n % 4], STRENGTHS[n // 4 % 4], [work.image], rng) for n, work in enumerate([*known, *unknown])
    ]
    return Validation(
        _stack([work.image for work in index], side),
        _stack(derived[: len(known)], side),
        torch.arange(len(known)),
        _stack([*derived[len(known) :], *(work.image for work in unknown)], side),
    )


def _stack(images: Sequence[Image.Image], side: int) -> Tensor:
    return torch.from_numpy(np.stack([as_input(image, side) for image in images]))
