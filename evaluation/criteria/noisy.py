"""Criterion C3: whether noisy and foreign training pictures get a low value: AUC of φ_i, clean above others, 0.5 is
chance.

The generator is trained on all of them, as an operator who does not know would train it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from evaluation.criteria.world import SEED, Plan, World, train_generators
from evaluation.generators import sample
from evaluation.generators.digits import (
    SIDE_PX,
    Embedder,
    Near,
    Pictures,
    Values,
    distances,
    nearest,
    paid,
    shares,
    to_image,
)
from evaluation.images.sample import read_works
from evaluation.known_source.run import CALIBRATED
from evaluation.report.plots import COLOURS, auc, draw, interval
from evaluation.report.sections import Cell, Estimate, Gallery, Plot, Section, Table, Tile
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import load_policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLEAN, NOISY, FOREIGN = 0, 1, 2
NAMES = ("clean digits", "noisy digits", "foreign: clip art")
_NOISE_SIGMA = 110
_EPOCHS_FACTOR = 3
"""Factor on the epochs: there are fewer pictures than in C1, so each is seen more often, for about as many steps."""

_POLICIES = ("paper@1", CALIBRATED)


@dataclass(frozen=True)
class Polluted:
    """A polluted training set. pictures: (N, 28, 28). kind: (N,) CLEAN, NOISY or FOREIGN. values: (N,) φ by row of
    the table."""

    pictures: Pictures
    kind: npt.NDArray[np.int64]
    values: Mapping[str, Values]


def noisy(world: World, plan: Plan, embedder: Embedder) -> Section:
    """Run the criterion and return its section."""
    clean = world.works.images[: plan.polluted]
    strays = [_noisy(world.works.images[plan.polluted : plan.polluted + plan.strays]), _foreign(plan.strays)]
    pictures = np.concatenate([clean, *strays])
    kind = np.repeat((CLEAN, NOISY, FOREIGN), (len(clean), *(len(stray) for stray in strays)))
    vae, model = train_generators(pictures, _EPOCHS_FACTOR * plan.epochs, "C3")
    drawn = np.concatenate([sample(vae, plan.queries, SEED + 3), sample(model, plan.queries, SEED + 4)])
    embedded = embedder.small(drawn, "C3 generated")
    others = embedder.small(np.concatenate(strays), "C3 noisy and foreign")
    works = np.concatenate([world.embeddings.perceptual[: plan.polluted], others.perceptual])
    matrix = distances(embedded.perceptual, works)
    quality = np.asarray(embedded.quality, dtype=np.float64)
    result = Polluted(pictures, kind, _values(matrix, quality))
    return _section(result, drawn)


def _noisy(pictures: Pictures) -> Pictures:
    """Add Gaussian noise of σ = 110 (of 255) to every pixel."""
    random = np.random.default_rng(SEED)
    values = pictures + random.normal(0, _NOISE_SIGMA, pictures.shape)
    return np.asarray(np.clip(values, 0, 255).astype(np.uint8))


def _foreign(count: int) -> Pictures:
    """Return clip art as grey pictures of 28 pixels, bright on black like the digits."""
    folder = sample_folder("openclipart")
    works = list(read_works(folder).values())
    chosen = works[:: max(len(works) // count, 1)][:count]
    return np.stack([_small(decode_image((folder / work.file_name).read_bytes())) for work in chosen])


def _small(image: Image.Image) -> Pictures:
    square = ImageOps.pad(image.convert("L"), (SIDE_PX, SIDE_PX), color=255)
    return np.asarray(255 - np.asarray(square), dtype=np.uint8)


def _values(matrix: Values, quality: Values) -> dict[str, Values]:
    works = matrix.shape[1]
    random = np.random.default_rng(SEED)
    polluted: dict[str, Values] = {
        "uniform over all works": np.full(works, quality.sum() / works),
        "random": np.asarray(random.random(works)),
    }
    for reference in _POLICIES:
        policy = load_policy(reference)
        near = nearest(matrix, policy.k)
        portions = shares(near, policy)
        polluted[reference] = paid(near, portions, works, quality).sum(axis=0)
        polluted[f"{reference}, without quality"] = paid(near, portions, works).sum(axis=0)
    near = nearest(matrix, load_policy("paper@1").k)
    polluted["uniform over the k nearest"] = paid(near, _even(near), works).sum(axis=0)
    return polluted


def _even(near: Near) -> Values:
    return np.full(near.rows.shape, 1 / near.rows.shape[1])


def _estimate(polluted: Polluted, values: Values, kinds: tuple[int, ...]) -> Estimate:
    rows = np.isin(polluted.kind, (CLEAN, *kinds))
    both = np.stack([values[rows], polluted.kind[rows] == CLEAN], axis=1)
    return interval(both, lambda sample: auc(sample[:, 0], sample[:, 1] > 0))


def _section(polluted: Polluted, drawn: Pictures) -> Section:
    table = _table(polluted)
    main = polluted.values["paper@1"]
    figures = {
        "c3_auc": auc(main, polluted.kind == CLEAN),
        "c3_auc_noisy": auc(main[polluted.kind != FOREIGN], (polluted.kind == CLEAN)[polluted.kind != FOREIGN]),
        "c3_auc_foreign": auc(main[polluted.kind != NOISY], (polluted.kind == CLEAN)[polluted.kind != NOISY]),
        "c3_auc_calibrated": auc(polluted.values[CALIBRATED], polluted.kind == CLEAN),
        "c3_auc_without_quality": auc(polluted.values["paper@1, without quality"], polluted.kind == CLEAN),
    }
    counts = [int((polluted.kind == kind).sum()) for kind in (CLEAN, NOISY, FOREIGN)]
    return Section(
        "C3: noisy and foreign training data",
        [
            f"A generator is trained on {counts[0]:,} digits, {counts[1]} digits under noise (σ = {_NOISE_SIGMA} of "
            f"255) and {counts[2]} clip-art thumbnails, all mixed, and draws {len(drawn)} images. φ is what each "
            "training picture is paid for all of them together. The AUC says how often a clean digit is paid more "
            "than one of the others; the paper shows a scatter plot.",
            "It is paid for likeness to what was generated: a stray picture whose like the generator does draw is "
            "paid, and rightly so. A clean digit that resembles no generated image is paid as little as a stray one, "
            "which holds the AUC down where a policy pays few works.",
        ],
        {name: round(value, 4) for name, value in figures.items()},
        [table],
        [_plot(polluted)],
        [_gallery(polluted, drawn)],
    )


def _table(polluted: Polluted) -> Table:
    lines: list[list[Cell | Estimate]] = [
        [name, *(_estimate(polluted, values, kinds) for kinds in ((NOISY, FOREIGN), (NOISY,), (FOREIGN,)))]
        for name, values in polluted.values.items()
    ]
    return Table("AUC, clean above others", ("value", "noisy and foreign", "noisy", "foreign"), lines)


def _plot(polluted: Polluted) -> Plot:
    def paint(axes: Axes) -> None:
        values = polluted.values["paper@1"]
        edges = np.linspace(0, max(float(np.quantile(values, 0.99)), 1e-9), 30)
        for kind, colour in zip((CLEAN, NOISY, FOREIGN), COLOURS, strict=False):
            mine = np.minimum(values[polluted.kind == kind], edges[-1])
            axes.hist(mine, edges.tolist(), weights=np.full(len(mine), 1 / len(mine)), histtype="step", color=colour,
                      linewidth=1.6, label=NAMES[kind])  # fmt: skip
        axes.set(xlabel="value φ by paper@1, in credits", ylabel="share of the pictures")
        axes.legend(fontsize=8)

    return Plot("What training pictures are paid, by kind; the last bin holds what is above.", draw(paint))


def _gallery(polluted: Polluted, drawn: Pictures) -> Gallery:
    values = polluted.values["paper@1"]
    rows = [[Tile(to_image(picture), "generated") for picture in drawn[:8]]]
    for kind in (CLEAN, NOISY, FOREIGN):
        mine = np.flatnonzero(polluted.kind == kind)[:8]
        rows.append([Tile(to_image(polluted.pictures[row]), f"{NAMES[kind]}: φ = {values[row]:.3f}") for row in mine])
    return Gallery("Generated images, and training pictures of each kind with their value.", rows)
