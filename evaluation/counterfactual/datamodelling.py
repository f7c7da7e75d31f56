"""The linear datamodelling score (Park et al., 2023), and the attributions that are compared by it.

    LDS(x̂_j) = Spearman_m( Σ_{i ∈ S_m} τ(x̂_j, x_i), -L(x̂_j; S_m) )     over random halves S_m of the works

It is 1 if the sums of attributions order the retrained models as their losses do, and 0 if they carry no information.
Trainings also differ by chance, so no attribution reaches 1: see `ceiling`. An attribution is a matrix (J, N): the
value of work i for generated image j.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from torch import Tensor

from evaluation.counterfactual import trak
from evaluation.counterfactual.generator import Kept, SmallVae
from evaluation.generators.digits import distances, nearest, paid, shares
from evaluation.known_source.run import CALIBRATED
from evaluation.report.sections import Estimate
from gmvaluator.ports import Embeddings
from gmvaluator.valuation.policy import load_policy

Values = npt.NDArray[np.float64]
_RESAMPLES = 1_000
_SEED = 64


def halves(works: int, subsets: int, seed: int) -> list[Kept]:
    """Return `subsets` random halves as masks (N,)."""
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(subsets):
        kept = np.zeros(works, dtype=bool)
        kept[random.permutation(works)[: works // 2]] = True
        drawn.append(kept)
    return drawn


def scores(attributions: Values, subsets: list[Kept], losses: Values) -> Values:
    """Return the (J,) LDS of each generated image, 0 where all sums are equal.

    attributions: (J, N). losses: (M, J).
    """
    return correlations(_sums(attributions, subsets), -losses.T)


def estimate(predicted: Values, truth: Values) -> Estimate:
    """Return Spearman's correlation of predicted and true values, the mean over J images, with a 95 % interval.

    predicted, truth: (J, M), of each image under each of M subsets of works. The interval is of 1,000 resamples of
    images and subsets together, since both were drawn at random.
    """
    random = np.random.default_rng(_SEED)
    images, subsets = truth.shape
    drawn = []
    for _ in range(_RESAMPLES):
        rows = random.integers(0, images, (images, 1))
        columns = random.integers(0, subsets, subsets)
        drawn.append(correlations(predicted[rows, columns], truth[rows, columns]).mean())
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(correlations(predicted, truth).mean()), float(low), float(high))


def score(attributions: Values, subsets: list[Kept], losses: Values) -> Estimate:
    """Return the LDS of one kind of attribution."""
    return estimate(_sums(attributions, subsets), -losses.T)


def ceiling(agreement: Estimate) -> Estimate:
    """Return about what an attribution with perfect knowledge would score against the mean of two seeds.

    agreement: correlation r of one seed's losses with the other's. By Spearman and Brown the mean of two has
    reliability 2 r / (1 + r), and truth correlates with it by the root of that. Exact only for Pearson's correlation
    of normal errors.
    """
    low, value, high = (
        float(np.sqrt(2 * max(bound, 0) / (1 + max(bound, 0))))
        for bound in (agreement.low, agreement.value, agreement.high)
    )
    return Estimate(value, low, high)


def _sums(attributions: Values, subsets: list[Kept]) -> Values:
    # Sums of shares in another order differ in the last digit, which is no order that ranks may show.
    return np.asarray(np.round(attributions @ np.stack(subsets).T.astype(np.float64), 9))


def correlations(first: Values, second: Values) -> Values:
    """Return (J,) Spearman correlations of the rows of (J, M) with those of (J, M); 0 where one is constant."""
    bound, other = (rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (first, second))
    scale = np.sqrt((bound**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.asarray(np.where(scale > 0, (bound * other).sum(axis=1) / np.where(scale > 0, scale, 1), 0.0))


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


def by_likeness(works: Embeddings, images: Embeddings) -> dict[str, Values]:
    """Return the attributions that use pictures alone, as a service without access to the generator must.

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
    """Return minus the distance of the pixels: the baseline of any network."""
    squares = ((images[:, None] - works[None]) ** 2).sum(dim=2)
    return np.asarray(-squares.sqrt().numpy().astype(np.float64))


def by_gradients(models: list[SmallVae], works: Tensor, images: Tensor) -> Mapping[str, Values]:
    """Return the references, which read the generator's gradients."""
    return {
        TRAK: trak.attributions(models, trak.loss, works, images),
        D_TRAK: trak.attributions(models, trak.squared_output, works, images),
    }
