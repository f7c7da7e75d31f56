"""The whole benchmark: train, attribute, retrain, compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from evaluation.counterfactual import datamodelling, moving, rows
from evaluation.counterfactual.findings import Findings
from evaluation.counterfactual.generator import latents
from evaluation.counterfactual.retraining import Laboratory
from evaluation.counterfactual.section import counterfactual_section
from evaluation.counterfactual.spec import DRAW_SEED, FULL, SEED, SHORT, SUBSET_SEED, Plan
from evaluation.digits.embedding import Embedder
from evaluation.digits.pictures import SIDE_PX, load_mnist
from evaluation.sections import Estimate, Section

Values = npt.NDArray[np.float64]


def counterfactual(profile: str, short: bool, work: Path) -> Section:
    """The section; what is trained and embedded stays in `work` and is not done again."""
    plan = SHORT if short else FULL
    pictures = load_mnist().part(0, plan.works).images
    tensor = torch.from_numpy(pictures.astype(np.float32).reshape(len(pictures), -1) / 255)
    laboratory = Laboratory(tensor, latents(plan.images, DRAW_SEED), plan.epochs, SEED, work / "retrains")
    embedder = Embedder(profile, work)
    originals = laboratory.originals.numpy()
    attributions = rows.by_likeness(
        embedder.small(pictures, "training digits"), embedder.small(to_pictures(originals), "generated digits")
    )
    models = [laboratory.full, *(laboratory.model(SEED + extra) for extra in range(1, plan.reference_models))]
    attributions[rows.PIXELS] = rows.by_pixels(tensor, laboratory.originals)
    attributions |= rows.by_gradients(models, tensor, laboratory.originals)
    scores, agreement = _scores(plan, laboratory, attributions)
    moves = moving.moved(laboratory, moving.choices(attributions, plan.moved, plan.taken))
    perceptual = {one.name: _perceptual(embedder, originals[: plan.moved], one.drawn) for one in moves}
    return counterfactual_section(Findings(plan, laboratory, attributions, scores, agreement, moves, perceptual))


def _scores(
    plan: Plan, laboratory: Laboratory, attributions: Mapping[str, Values]
) -> tuple[dict[str, Estimate], Estimate]:
    subsets = datamodelling.halves(plan.works, plan.subsets, SUBSET_SEED)
    first, second = (
        np.stack([laboratory.without(kept, seed).losses for kept in subsets]) for seed in (SEED, SEED + 100)
    )
    # Both seeds' mean is what attributions should predict: less of it is chance.
    losses = (first + second) / 2
    scores = {name: datamodelling.score(matrix, subsets, losses) for name, matrix in attributions.items()}
    return scores, datamodelling.estimate(first.T, second.T)


def to_pictures(drawn: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """(J, 784) in [0, 1] to (J, 28, 28) uint8."""
    return np.asarray((drawn * 255).round().astype(np.uint8).reshape(-1, SIDE_PX, SIDE_PX))


def _perceptual(embedder: Embedder, before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> Values:
    """(J,) perceptual distance of each image before and after."""
    one, other = (embedder.small(to_pictures(drawn), "moved digits").perceptual for drawn in (before, after))
    return np.asarray(1 - (one.astype(np.float64) * other).sum(axis=1))
