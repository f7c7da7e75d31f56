"""Sensitivity of the credit to k, to product quantisation and to quality, which the paper does not report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

from evaluation.criteria.class_match import same_class
from evaluation.criteria.efficiency import RealIndex
from evaluation.criteria.world import World
from evaluation.generators.digits import Rows, Values, distances, nearest, paid, shares
from evaluation.known_source.run import CALIBRATED
from evaluation.report.plots import COLOURS, draw, mean_interval
from evaluation.report.sections import Cell, Estimate, Plot, Section, Table
from gmvaluator.index.schema import SearchSettings
from gmvaluator.index.verify import UNRESCORED
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.residual import Gate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KS = (1, 5, 10, 20, 30, 50, 75, 100)
_K = 50
_SEARCHES = {"product quantised, rescored": SearchSettings(), "product quantised, codes alone": UNRESCORED}


def sensitivity(world: World, index: RealIndex) -> Section:
    """Run the analysis and return its section."""
    searched = _searched(world, index)
    quality = _quality_table(world)
    figures = {
        "pq_recall_k50": float(_found(searched, "product quantised, rescored").mean()),
        "pq_recall_k50_codes_alone": float(_found(searched, "product quantised, codes alone").mean()),
    }
    return Section(
        "What the figures depend on",
        [
            "k decides how far the credit is spread: by the paper's formula nearly evenly over the k nearest, so that "
            "the largest share is hardly more than 1 / k. The quantised index is asked as the service asks it; exact "
            "search is its plain twin. Quality scales what an image pays, and moves totals only as far as images of "
            "low quality have other contributors than the rest.",
        ],
        {name: round(value, 4) for name, value in figures.items()},
        [_k_table(world), _search_table(world, searched), quality],
        [_plot(world)],
    )


def _searched(world: World, index: RealIndex) -> dict[str, Rows]:
    recall = distances(world.generated.embeddings.recall, world.embeddings.recall[: len(index.ids)])
    ranked = {"exact": nearest(recall, _K).rows}
    for name, settings in _SEARCHES.items():
        lines = [
            [index.rows[entry] for entry, _ in index.store.nearest(vector, _K, settings)]
            for vector in world.generated.embeddings.recall
        ]
        ranked[name] = np.array([line + [line[-1]] * (_K - len(line)) for line in lines])
    ranked["random works"] = np.random.default_rng(3).integers(0, len(index.ids), ranked["exact"].shape)
    return ranked


def _found(searched: dict[str, Rows], name: str) -> Values:
    """Return the (J,) share of the exact nearest works that a search returned."""
    return np.array(
        [
            len(set(entry) & set(other)) / len(set(other))
            for entry, other in zip(searched[name], searched["exact"], strict=True)
        ]
    )


def _search_table(world: World, searched: dict[str, Rows]) -> Table:
    lines: list[list[Cell | Estimate]] = [
        [
            name,
            mean_interval(_found(searched, name)),
            mean_interval(same_class(world, world.generated, rows).mean(axis=1)),
        ]
        for name, rows in searched.items()
    ]
    return Table(f"Recall of {_K}", ("search", "of the exact nearest", "of the same class"), lines)


def _policies(k: int) -> list[Policy]:
    """Return the policies compared; the gate of the calibrated one may read more than k distances."""
    calibrated = load_policy(CALIBRATED)
    ranks = calibrated.residual.ranks if isinstance(calibrated.residual, Gate) else ()
    return [replace(load_policy("paper@1"), k=k), replace(calibrated, k=max(k, *(rank for rank, _ in ranks), 1))]


def _k_table(world: World) -> Table:
    lines: list[list[Cell | Estimate]] = []
    depth = len(world.works.images)
    for k in (entry for entry in KS if entry <= depth):
        near = nearest(world.generated.distances, k)
        right = mean_interval(same_class(world, world.generated, near.rows).mean(axis=1))
        largest = [mean_interval(_largest(world, policy)) for policy in _policies(k)]
        lines.append([k, right, 1 / k, *largest])
    return Table(
        "By k: contributors of the same class, and the largest share",
        ("k", "same class", "uniform share", "paper@1", CALIBRATED),
        lines,
    )


def _largest(world: World, policy: Policy) -> Values:
    return np.asarray(shares(nearest(world.generated.distances, policy.k), policy).max(axis=1))


def _quality_table(world: World) -> Table:
    quality = np.asarray(world.generated.embeddings.quality, dtype=np.float64)
    lines: list[list[Cell | Estimate]] = []
    for reference in ("paper@1", CALIBRATED):
        policy = load_policy(reference)
        near = nearest(world.generated.distances, policy.k)
        portions, works = shares(near, policy), len(world.works.images)
        totals = [paid(near, portions, works, entry).sum(axis=0) for entry in (quality, None)]
        classes = [np.bincount(world.works.labels, total / total.sum(), 10) for total in totals]
        moved = 50 * float(np.abs(classes[0] - classes[1]).sum())
        lines.append([reference, mean_interval(quality), float(spearmanr(*totals).statistic), moved])
    return Table(
        "With and without quality",
        ("policy", "quality", "rank correlation of works' totals", "points of credit that change class"),
        lines,
    )


def _plot(world: World) -> Plot:
    ks = [k for k in KS if k <= len(world.works.images)]

    def paint(axes: Axes) -> None:
        means = [same_class(world, world.generated, nearest(world.generated.distances, k).rows).mean() for k in ks]
        axes.plot(ks, means, marker="o", color=COLOURS[0], label="contributors of the same class")
        for number, name in enumerate(("paper@1", CALIBRATED)):
            largest = [_largest(world, _policies(k)[number]).mean() for k in ks]
            axes.plot(ks, largest, marker="o", color=COLOURS[1 + number], label=f"largest share, {name}")
        axes.plot(ks, [1 / k for k in ks], ":", color="#999999", label="largest share, uniform")
        axes.set(xlabel="k", ylim=(0, 1.02))
        axes.legend(fontsize=8)

    return Plot("By k, on generated images.", draw(paint))
