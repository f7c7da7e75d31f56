"""The ways to attribute that are compared: each a matrix (J, N) of what work i is worth for generated image j."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from evaluation.counterfactual import trak
from evaluation.counterfactual.generator import SmallVae
from evaluation.digits.neighbours import distances, nearest, paid, shares
from evaluation.known_source.run import CALIBRATED
from gmvaluator.ports import Embeddings
from gmvaluator.valuation.policy import load_policy

UNIFORM = "uniform"
RANDOM = "random"
RECALL = "recall only, paper@1"
RERANKED = "re-ranked, paper@1"
WITH_CALIBRATED = f"re-ranked, {CALIBRATED}"
UNCUT = "re-ranked distance of every work"
PIXELS = "pixel distance of every work"
TRAK = "TRAK"
D_TRAK = "D-TRAK"
_ROWS_SEED = 5

Values = npt.NDArray[np.float64]


def by_likeness(works: Embeddings, images: Embeddings) -> dict[str, Values]:
    """Rows that look at pictures alone, as a service can that has no access to the generator.

    Values are those of equation 4 at quality 1: the k nearest are paid by the policy, the others nothing.
    """
    count = len(works.recall)
    recall = distances(images.recall, works.recall)
    perceptual = distances(images.perceptual, works.perceptual)
    return {
        UNIFORM: np.ones(recall.shape),
        RANDOM: np.random.default_rng(_ROWS_SEED).random(recall.shape),
        RECALL: _valued(recall, "paper@1", count),
        RERANKED: _valued(perceptual, "paper@1", count),
        WITH_CALIBRATED: _valued(perceptual, CALIBRATED, count),
        UNCUT: -perceptual,
    }


def _valued(matrix: Values, reference: str, count: int) -> Values:
    policy = load_policy(reference)
    near = nearest(matrix, policy.k)
    return paid(near, shares(near, policy), count)


def by_pixels(works: Tensor, images: Tensor) -> Values:
    """Minus the distance of the pixels: what a network has to beat."""
    squares = ((images[:, None] - works[None]) ** 2).sum(dim=2)
    return np.asarray(-squares.sqrt().numpy().astype(np.float64))


def by_gradients(models: list[SmallVae], works: Tensor, images: Tensor) -> Mapping[str, Values]:
    """The references, which see the generator's inside."""
    return {
        TRAK: trak.attributions(models, trak.loss, works, images),
        D_TRAK: trak.attributions(models, trak.squared_output, works, images),
    }
