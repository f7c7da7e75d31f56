"""What the generators draw: can it be read, do all classes occur, and is it more than a copy of what was trained on?"""

from __future__ import annotations

import numpy as np

from evaluation.criteria.world import GENERATED, HELD, Asked, World
from evaluation.digits.neighbours import Values, distances
from evaluation.digits.pictures import CLASSES, Pictures
from evaluation.intervals import mean_interval
from evaluation.sections import Table

SURE = 0.99
"""Probability from which the classifier counts as sure; real pictures show how often it is at all."""


def pixel_distances(asked: Pictures, works: Pictures) -> Values:
    """(J, 28, 28) and (N, 28, 28) to (J, N): 1 - cosine of the pixels."""
    return distances(flat_pixels(asked), flat_pixels(works))


def flat_pixels(pictures: Pictures) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """(N, 784), unit norm; a trace of grey keeps a black picture's from being zero."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32) + 1e-3
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), dtype=np.float32)


def drawn_table(world: World) -> Table:
    """By generator, with real pictures for scale."""
    return Table(
        f"What is asked about: where the classifier is sure (at least {SURE}), classes, distance to the nearest work",
        ("images", "sure", "classes that occur", "largest class", "pixel distance to the nearest work"),
        [
            [
                name,
                mean_interval(one.sure >= SURE),
                int((_frequency(one) > 0).sum()),
                float(_frequency(one).max()),
                mean_interval(_copied(world, one)),
            ]
            for name, one in world.asked.items()
        ],
    )


def drawn_figures(world: World, figure: str) -> dict[str, float]:
    """figure: what their names begin with."""
    figures = {f"{figure}_classes_drawn": float(min((_frequency(world.asked[name]) > 0).sum() for name in GENERATED))}
    for one, name in ((world.generated, figure), (world.asked[HELD], f"{figure}_real")):
        figures[f"{name}_sure_share"] = float((one.sure >= SURE).mean())
        figures[f"{name}_nearest_pixel_distance"] = float(_copied(world, one).mean())
    return figures


def _frequency(asked: Asked) -> Values:
    """(10,) share of each class."""
    return np.bincount(asked.classes, minlength=CLASSES) / len(asked.classes)


def _copied(world: World, asked: Asked) -> Values:
    """(J,) pixel distance to the nearest work; 0 would be a copy."""
    return np.asarray(pixel_distances(asked.pictures, world.works.images).min(axis=1))
