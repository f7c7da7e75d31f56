"""Retrain without the works that a row values most, and see how far one generated image moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.counterfactual import rows
from evaluation.counterfactual.generator import Kept
from evaluation.counterfactual.retraining import Laboratory

Values = npt.NDArray[np.float64]

TOP, BOTTOM = "top", "bottom"
_SEED = 9


@dataclass(frozen=True, slots=True)
class Moved:
    """Of one choice of works, for each of J generated images. pixels: (J,) root mean square change, in [0, 1].
    loss_nats: (J,) rise of the original image's bound. drawn: (J, 784), what is drawn now."""

    name: str
    pixels: Values
    loss_nats: Values
    drawn: Values


def choices(attributions: Mapping[str, Values], images: int, taken: int) -> dict[str, list[Kept]]:
    """What is kept, by choice and generated image. The bottom is that of the uncut distance: of values at k most works
    are worth nothing alike."""
    random = np.random.default_rng(_SEED)
    works = attributions[rows.UNCUT].shape[1]
    found = {
        "random works": [_without(random.permutation(works)[:taken], works) for _ in range(images)],
        "least like it, re-ranked": [
            _without(np.argsort(line, kind="stable")[:taken], works) for line in attributions[rows.UNCUT][:images]
        ],
    }
    for name in (rows.RERANKED, rows.PIXELS, rows.TRAK, rows.D_TRAK):
        tops = [np.argsort(-line, kind="stable")[:taken] for line in attributions[name][:images]]
        found[f"top by {name}"] = [_without(top, works) for top in tops]
    return found


def _without(taken: npt.NDArray[np.intp], works: int) -> Kept:
    kept = np.ones(works, dtype=bool)
    kept[taken] = False
    return kept


def moved(laboratory: Laboratory, chosen: Mapping[str, list[Kept]]) -> list[Moved]:
    """Retrain for every choice and image."""
    everything = np.ones(len(laboratory.pictures), dtype=bool)
    base = laboratory.without(everything)
    found = []
    for name, masks in chosen.items():
        outcomes = [laboratory.without(kept) for kept in masks]
        drawn = np.stack([outcome.drawn[row] for row, outcome in enumerate(outcomes)])
        pixels = np.sqrt(((drawn - base.drawn[: len(masks)]) ** 2).mean(axis=1))
        rise = np.array([outcome.losses[row] for row, outcome in enumerate(outcomes)]) - base.losses[: len(masks)]
        found.append(Moved(name, pixels, rise, drawn))
    return found
