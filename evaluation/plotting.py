"""Figures of one look, as SVG text. matplotlib is imported when the first is drawn, and needs no display."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.sections import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6fde", "#e07b39", "#3a9d6e", "#b5477f", "#6b6f76", "#c9a227", "#7a5bd0", "#2aa5b8")
"""In the order in which series appear; told apart by the colour-blind for the first five."""

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
    """The SVG document of one figure; `paint` is given its axes. The same data give the same text."""
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
    """A horizontal bar a name, the first on top, with its interval."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(names))
        means = np.array([one.value for one in values])
        below = np.maximum(means - np.array([one.low for one in values]), 0)
        above = np.maximum(np.array([one.high for one in values]) - means, 0)
        axes.barh(places, means, xerr=(below, above), color=COLOURS[0], error_kw={"ecolor": "#333333", "capsize": 2})
        axes.set(xlabel=label, yticks=places, yticklabels=names)
        axes.invert_yaxis()

    return draw(paint, 6.8, 0.34 * len(names) + 0.9)
