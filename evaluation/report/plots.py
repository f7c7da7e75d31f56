"""Plots in one style, as SVG text, and seeded bootstrap intervals.

matplotlib is imported when the first plot is drawn, and needs no display.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.report.sections import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = ("#2f6fde", "#e07b39", "#3a9d6e", "#b5477f", "#6b6f76", "#c9a227", "#7a5bd0", "#2aa5b8")
"""Colours of the series, in order; the first five are distinguishable for colour-blind readers."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gmvaluator",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw(paint: Callable[[Axes], object], width_in: float = 6.4, height_in: float = 3.6) -> str:
    """Return one figure as an SVG document; `paint` receives its axes. The same data give the same text."""
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "gmvaluator"})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def bars(names: Sequence[str], values: Sequence[Estimate], label: str) -> str:
    """Return a horizontal bar chart with intervals, the first name on top."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(names))
        means = np.array([estimate.value for estimate in values])
        below = np.maximum(means - np.array([estimate.low for estimate in values]), 0)
        above = np.maximum(np.array([estimate.high for estimate in values]) - means, 0)
        axes.barh(places, means, xerr=(below, above), color=COLOURS[0], error_kw={"ecolor": "#333333", "capsize": 2})
        axes.set(xlabel=label, yticks=places, yticklabels=names)
        axes.invert_yaxis()

    return draw(paint, 6.8, 0.34 * len(names) + 0.9)


RESAMPLES = 2_000
_SEED = 95
_DRAWN_AT_ONCE = 100_000

Values = npt.NDArray[np.float64]


def mean_interval(values: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Estimate:
    """Return the mean of N values with the 95 % percentile interval of 2,000 resamples.

    groups: a label for each value; whole groups are resampled then, because the works of one artist resemble each
    other. Raises ValueError if there are no values.
    """
    rows = _some(values)
    labels = np.arange(len(rows)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    # A mean needs the sums and the sizes of the groups that are drawn, not their rows, and many draws at once.
    sums, sizes = np.bincount(labels, rows), np.bincount(labels)
    rng = np.random.default_rng(_SEED)
    drawn: list[float] = []
    while len(drawn) < RESAMPLES:
        count = min(RESAMPLES - len(drawn), max(_DRAWN_AT_ONCE // len(sums), 1))
        picks = rng.integers(0, len(sums), (count, len(sums)))
        drawn += (sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)).tolist()
    return _estimate(float(rows.mean()), drawn)


def interval(
    values: npt.ArrayLike, statistic: Callable[[Values], float], groups: npt.ArrayLike | None = None
) -> Estimate:
    """Return a statistic of (N, ...) values with its interval, like `mean_interval`; it receives resampled rows."""
    rows = _some(values)
    rng = np.random.default_rng(_SEED)
    draw = _drawing(len(rows), groups)
    drawn = [statistic(rows[draw(rng)]) for _ in range(RESAMPLES)]
    return _estimate(statistic(rows), drawn)


def auc(scores: Values, positive: npt.NDArray[np.bool_]) -> float:
    """Return how often one of `positive` has a higher score than one of the others; ties count half.

    It is the area under the ROC curve; NaN where either kind is absent.
    """
    high, low = scores[positive], np.sort(scores[~positive])
    if not len(high) or not len(low):
        return float("nan")
    # Half of those below and half of those not above; ranks would sort all of them in every resample.
    wins = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(wins.sum() / (2 * len(high) * len(low)))


def _some(values: npt.ArrayLike) -> Values:
    rows = np.asarray(values, dtype=np.float64)
    if not len(rows):
        raise ValueError("there are no values to take an interval of")
    return rows


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def _drawing(count: int, groups: npt.ArrayLike | None) -> Callable[[np.random.Generator], npt.NDArray[np.int64]]:
    """Return the function that draws the rows of one resample."""
    if groups is None:
        return lambda rng: rng.integers(0, count, count)
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return lambda rng: np.concatenate([members[pick] for pick in rng.integers(0, len(members), len(members))])
