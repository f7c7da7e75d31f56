"""How many pictures, generated images and retrainings: fixed before anything was measured."""

from __future__ import annotations

from dataclasses import dataclass

SEED = 20_304
SUBSET_SEED = 10_701
DRAW_SEED = 701


@dataclass(frozen=True, slots=True)
class Plan:
    """works: training pictures. epochs: of one training. images: generated ones that attributions explain.
    subsets: random halves for the linear datamodelling score. moved: generated images for which works are taken away.
    taken: works taken away for one. reference_models: trained on everything, over which gradients are averaged."""

    works: int
    epochs: int
    images: int
    subsets: int
    moved: int
    taken: int
    reference_models: int


FULL = Plan(works=400, epochs=32, images=40, subsets=32, moved=8, taken=40, reference_models=3)
SHORT = Plan(works=80, epochs=8, images=4, subsets=4, moved=2, taken=8, reference_models=1)
