"""RA1-RA3 of the paper's first version: whether value separates trained-on works from others.

RA1: t-SNE of trained-on, held-out and generated pictures. RA2: values v1 of trained-on pictures against v2 of as many
held-out ones, in one index, by Welch's t-test (the paper, BigGAN: 1.63 against 0.32, p = 6.9e-68). RA3: pictures of
high and of low value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.criteria.world import SEED, World
from evaluation.generators.digits import Values, distances, nearest, paid, shares, to_image
from evaluation.known_source.run import CALIBRATED
from evaluation.report.plots import COLOURS, auc, draw, mean_interval
from evaluation.report.sections import Cell, Estimate, Gallery, Plot, Section, Table, Tile
from gmvaluator.valuation.policy import load_policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 200
_TILES = 10
_PERPLEXITY = 30


@dataclass(frozen=True, slots=True)
class Both:
    """Values of n trained-on pictures (v1) and of n held-out ones (v2), scaled to a mean of 1."""

    name: str
    trained: Values
    held: Values

    @property
    def p(self) -> float:
        """The p-value of Welch's t-test, two-sided."""
        from scipy.stats import ttest_ind

        if np.ptp(np.concatenate([self.trained, self.held])) == 0:
            return 1.0
        return float(ttest_ind(self.trained, self.held, equal_var=False).pvalue)


def trained_on(world: World) -> Section:
    """Run RA1-RA3 and return their section."""
    rows = _values(world)
    main = next(row for row in rows if row.name == "paper@1")
    figures = {
        "ra2_value_trained": float(main.trained.mean()),
        "ra2_value_held_out": float(main.held.mean()),
        "ra2_p": main.p,
        "ra2_auc": auc(np.concatenate([main.trained, main.held]), np.arange(2 * len(main.held)) < len(main.held)),
    }
    return Section(
        "RA1-RA3: trained on or not",
        [
            f"{len(main.held):,} digits that the generators were trained on and as many that they never saw lie in one "
            "index; both generators' images pay them. Values are scaled to a mean of 1. The paper found 1.63 against "
            "0.32 for BigGAN on other data.",
            "A generator that has learnt what digits are, and not these digits, draws nothing nearer to the one half "
            "than to the other: then no likeness can tell them apart, and none should.",
        ],
        {name: float(f"{value:.4g}") for name, value in figures.items()},
        [_table(rows)],
        [_tsne(world), _plot(main)],
        [_gallery(world)],
    )


def _values(world: World) -> list[Both]:
    count = len(world.held.images)
    works = np.concatenate([world.embeddings.perceptual[:count], world.held_embeddings.perceptual])
    generated = world.generated.embeddings
    matrix = distances(generated.perceptual, works)
    quality = np.asarray(generated.quality, dtype=np.float64)
    scaled = [
        Both("uniform over all works", np.ones(count), np.ones(count)),
        _scaled("random", np.random.default_rng(SEED).random(2 * count)),
    ]
    for reference in ("paper@1", CALIBRATED):
        policy = load_policy(reference)
        near = nearest(matrix, policy.k)
        scaled.append(_scaled(reference, paid(near, shares(near, policy), 2 * count, quality).sum(axis=0)))
    return scaled


def _scaled(name: str, values: Values) -> Both:
    scaled = values / max(float(values.mean()), 1e-12)
    return Both(name, scaled[: len(scaled) // 2], scaled[len(scaled) // 2 :])


def _table(rows: list[Both]) -> Table:
    lines: list[list[Cell | Estimate]] = [
        [row.name, mean_interval(row.trained), mean_interval(row.held), row.p] for row in rows
    ]
    return Table("RA2: mean value", ("value", "v1, trained on", "v2, held out", "p"), lines)


def _plot(main: Both) -> Plot:
    def paint(axes: Axes) -> None:
        for values, colour, label in ((main.trained, COLOURS[0], "trained on"), (main.held, COLOURS[1], "held out")):
            ordered = np.sort(values)
            axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=colour, label=label)
        axes.set(xlabel="value by paper@1, mean 1", ylabel="share of the pictures with at most this value")
        axes.legend(loc="lower right")

    return Plot("RA2: distribution of values of what was trained on and what was not.", draw(paint))


def _tsne(world: World) -> Plot:
    from sklearn.manifold import TSNE

    some = min(_POINTS, len(world.held.images), len(world.generated.pictures))
    generated = world.generated.embeddings.perceptual
    parts = {
        "trained on": world.embeddings.perceptual[:some],
        "held out": world.held_embeddings.perceptual[:some],
        "generated": generated[:: max(len(generated) // some, 1)][:some],
    }
    perplexity = min(_PERPLEXITY, some - 1)
    places = TSNE(perplexity=perplexity, random_state=SEED, init="pca").fit_transform(
        np.concatenate(list(parts.values()))
    )

    def paint(axes: Axes) -> None:
        for number, (name, colour) in enumerate(zip(parts, COLOURS, strict=False)):
            mine = places[number * some : (number + 1) * some]
            axes.scatter(mine[:, 0], mine[:, 1], s=9, color=colour, label=name, alpha=0.75)
        axes.set(xticks=(), yticks=())
        axes.legend(fontsize=8)

    return Plot("RA1: t-SNE of perceptual vectors.", draw(paint, 5.4, 4.6))


def _gallery(world: World) -> Gallery:
    policy = load_policy("paper@1")
    near = nearest(world.generated.distances, policy.k)
    quality = np.asarray(world.generated.embeddings.quality, dtype=np.float64)
    values = paid(near, shares(near, policy), len(world.works.images), quality).sum(axis=0)
    order = np.argsort(-values, kind="stable")
    return Gallery(
        "RA3: training pictures of the highest and of the lowest value by paper@1, in credits.",
        [
            [Tile(to_image(world.works.images[row]), f"{values[row]:.3f}") for row in rows]
            for rows in (order[:_TILES], order[-_TILES:])
        ],
    )
