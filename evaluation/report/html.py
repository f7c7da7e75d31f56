"""The report as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.report.sections import Cell, Estimate, Section, picture

HEADLINES = {
    "credit_to_source_paper": "credit to the true source, paper's formula",
    "credit_to_source_calibrated": "credit to the true source, calibrated policy",
    "credit_to_source_copies": "the same for exact copies and re-encodings",
    "foreign_to_unattributed": "credit for foreign photographs and noise that stays unattributed",
    "foreign_cost_points": "what that takes from true sources, in points of credit",
    "no_source_auc": "source present against absent, AUC",
    "duplicate_inflation": "rise of a share through 25 near-duplicates",
    "ece": "expected calibration error of shares (derivatives of one work, copies, foreign images)",
    "composition_mae": "mean absolute error of composition weights",
    "c1_mnist_k50": "C1: contributors of the same class, MNIST, k = 50",
    "c3_auc": "C3: clean training data valued above noisy, AUC",
    "lds_reranked": "linear datamodelling score of the re-ranked distance",
    "lds_reference": "linear datamodelling score of the gradient-based reference",
}
"""Figures at the head of the report, in this order, with their meaning. 1 is the maximum unless a unit is named."""


class Headline(NamedTuple):
    """A figure at the head of the report."""

    figure: str
    meaning: str
    value: float


def headlines(figures: Mapping[str, float]) -> list[Headline]:
    """Return those of HEADLINES that were measured, in order."""
    return [Headline(name, meaning, figures[name]) for name, meaning in HEADLINES.items() if name in figures]


def render(sections: Sequence[Section], figures: Mapping[str, float], about: Mapping[str, Any], short: bool) -> str:
    """Return the HTML of all sections, with the main figures at the head.

    figures: of all sections. about: `machine`, `command` and `commit` of `gmvaluator.report`. short: whether it is the
    short run, whose figures come from too few images to be quoted.
    """
    environment = Environment(
        loader=PackageLoader("evaluation.report", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"cell": cell, "number": is_number, "svg": svg_source, "picture": picture, "anchor": anchor}
    template = environment.get_template("page.html")
    return template.render(sections=sections, headlines=headlines(figures), about=about, short=short)


def cell(value: Cell | Estimate) -> str:
    """Return a table cell as text: four significant digits, an interval in brackets, a dash for None."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def is_number(value: Cell | Estimate) -> bool:
    """Return whether a cell is right-aligned."""
    return not isinstance(value, str)


def svg_source(svg: str) -> str:
    """Return the SVG as a data URI, so that its ids cannot clash with those of another."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def anchor(title: str) -> str:
    """Return the fragment identifier of a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
