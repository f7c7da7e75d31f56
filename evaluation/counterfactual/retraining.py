"""Retraining without some works, each result cached on disk, and how far a generated image moves.

A stopped run resumes from the cached trainings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluation.counterfactual import datamodelling
from evaluation.counterfactual.generator import Kept, SmallVae, draw, losses, train
from gmvaluator.files import atomic_file
from gmvaluator.ids import sha256_hex

_VERSION = "small-vae-3"
"""Version of the generator's training. Raise it when the training changes: results on disk belong to the old one."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one training. drawn: (J, 784) pictures in [0, 1] from the fixed latents. losses: (J,) of the original
    images."""

    drawn: Values
    losses: Values


@dataclass
class Laboratory:
    """A generator, and its retrainings without some works, whose outcomes are cached in `folder`.

    pictures: (N, 784) all works. chosen: (J, 8) latents. originals: (J, 784), drawn by the full model.
    """

    pictures: Tensor
    chosen: Tensor
    epochs: int
    seed: int
    folder: Path
    originals: Tensor = field(init=False)
    full: SmallVae = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.full = self.model(self.seed)
        self.originals = draw(self.full, self.chosen)

    def model(self, seed: int) -> SmallVae:
        """Train a model on every work."""
        return train(self.pictures, np.ones(len(self.pictures), dtype=bool), seed, self.epochs)

    def without(self, kept: Kept, seed: int | None = None) -> Outcome:
        """Return the outcome of training on the kept works alone, from disk if it was trained before."""
        used = self.seed if seed is None else seed
        path = self.folder / f"{self._key(kept, used)}.npz"
        if not path.exists():
            self._store(path, train(self.pictures, kept, used, self.epochs))
        self.done += 1
        if self.done % 20 == 0:
            print(f"counterfactual: {self.done} trainings", file=sys.stderr, flush=True)  # noqa: T201
        with np.load(path, allow_pickle=False) as stored:
            return Outcome(stored["drawn"], stored["losses"])

    def _key(self, kept: Kept, seed: int) -> str:
        world = f"{_VERSION}/{torch.__version__}/{self.epochs}/{self.seed}/{seed}/".encode()
        data = self.pictures.numpy().tobytes() + self.chosen.numpy().tobytes() + kept.tobytes()
        return sha256_hex(world + data)[:32]

    def _store(self, path: Path, model: SmallVae) -> None:
        drawn = draw(model, self.chosen).numpy().astype(np.float64)
        with atomic_file(path, durable=False) as file:  # a cache: the model can be trained again
            np.savez(file, drawn=drawn, losses=losses(model, self.originals).numpy().astype(np.float64))


TOP, BOTTOM = "top", "bottom"
_SEED = 9


@dataclass(frozen=True, slots=True)
class Moved:
    """The effect of removing one choice of works, for each of J generated images.

    pixels: (J,) root mean square change, in [0, 1]. loss_nats: (J,) rise of the original image's bound. drawn: (J,
    784), the new images.
    """

    name: str
    pixels: Values
    loss_nats: Values
    drawn: Values


def choices(attributions: Mapping[str, Values], images: int, taken: int) -> dict[str, list[Kept]]:
    """Return the works that are kept, by choice and generated image.

    The bottom is taken by the uncut distance: of values at k, most works are equally worth nothing.
    """
    random = np.random.default_rng(_SEED)
    works = attributions[datamodelling.UNCUT].shape[1]
    moves = {
        "random works": [_without(random.permutation(works)[:taken], works) for _ in range(images)],
        "least like it, re-ranked": [
            _without(np.argsort(line, kind="stable")[:taken], works)
            for line in attributions[datamodelling.UNCUT][:images]
        ],
    }
    for name in (datamodelling.RERANKED, datamodelling.PIXELS, datamodelling.TRAK, datamodelling.D_TRAK):
        tops = [np.argsort(-line, kind="stable")[:taken] for line in attributions[name][:images]]
        moves[f"top by {name}"] = [_without(top, works) for top in tops]
    return moves


def _without(taken: npt.NDArray[np.intp], works: int) -> Kept:
    kept = np.ones(works, dtype=bool)
    kept[taken] = False
    return kept


def moved(laboratory: Laboratory, chosen: Mapping[str, list[Kept]]) -> list[Moved]:
    """Retrain on the kept works of every choice and image; return how far each image moves."""
    everything = np.ones(len(laboratory.pictures), dtype=bool)
    base = laboratory.without(everything)
    moves = []
    for name, masks in chosen.items():
        outcomes = [laboratory.without(kept) for kept in masks]
        drawn = np.stack([outcome.drawn[row] for row, outcome in enumerate(outcomes)])
        pixels = np.sqrt(((drawn - base.drawn[: len(masks)]) ** 2).mean(axis=1))
        rise = np.array([outcome.losses[row] for row, outcome in enumerate(outcomes)]) - base.losses[: len(masks)]
        moves.append(Moved(name, pixels, rise, drawn))
    return moves
