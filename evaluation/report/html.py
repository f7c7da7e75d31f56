"""What the figures were asked to reach, fixed before they were measured.

The report as one HTML page that needs nothing else: no script, no other file, no network.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.report.sections import Cell, Estimate, Section, picture


@dataclass(frozen=True, slots=True)
class Goal:
    """figure: its name. meaning: in words. limit: None where the figure is reported and nothing is asked of it."""

    figure: str
    meaning: str
    limit: float | None
    at_least: bool = True

    @property
    def asked(self) -> str:
        """`at least 0.85`, or a dash."""
        if self.limit is None:
            return "—"
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"

    def reached(self, value: float) -> bool | None:
        """Whether the value satisfies the goal; None if nothing is asked."""
        if self.limit is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit


GOALS = (
    Goal("credit_to_source_paper", "credit to the true source, paper's formula", None),
    Goal("credit_to_source_calibrated", "credit to the true source, calibrated policy", 0.85),
    Goal("credit_to_source_copies", "the same for exact copies and re-encodings", 0.95),
    Goal("foreign_to_unattributed", "credit for foreign photographs and noise that goes to nobody", 0.95),
    Goal("foreign_cost_points", "what that takes from true sources, in points of credit", 2.0, at_least=False),
    Goal("no_source_auc", "source present against absent, AUC", 0.98),
    Goal("duplicate_inflation", "rise of a share through 25 near-copies", 0.01, at_least=False),
    Goal(
        "ece",
        "expected calibration error of shares (derivatives of one work, copies, foreign images)",
        0.05,
        at_least=False,
    ),
    Goal("composition_mae", "mean absolute error of composition weights", 0.15, at_least=False),
    Goal("c1_mnist_k50", "C1: contributors of the same class, MNIST, k = 50", 0.93),
    Goal("c3_auc", "C3: clean training data valued above noisy, AUC", None),
    Goal("lds_reranked", "linear datamodelling score of the re-ranked distance", None),
    Goal("lds_reference", "linear datamodelling score of the gradient-based reference", None),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A goal beside what was measured."""

    goal: Goal
    value: float

    @property
    def verdict(self) -> str:
        """`reached`, `missed` or `reported`."""
        reached = self.goal.reached(self.value)
        return "reported" if reached is None else "reached" if reached else "missed"


def standings(figures: Mapping[str, float]) -> list[Standing]:
    """Those of GOALS that were measured, in order."""
    return [Standing(goal, figures[goal.figure]) for goal in GOALS if goal.figure in figures]


def render(sections: Sequence[Section], figures: Mapping[str, float], about: Mapping[str, Any], short: bool) -> str:
    """HTML of all sections, headed by what was asked and what came out.

    figures: of all sections. about: `machine`, `command` and `commit`, as `gmvaluator.report` gives them. short:
    whether it is the short run, whose figures are of too few images to be quoted.
    """
    environment = Environment(
        loader=PackageLoader("evaluation.report", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"cell": cell, "number": is_number, "svg": svg_source, "picture": picture, "anchor": anchor}
    template = environment.get_template("page.html")
    return template.render(sections=sections, standings=standings(figures), about=about, short=short)


def cell(value: Cell | Estimate) -> str:
    """A table's cell as text: four significant digits, an interval in brackets, a dash for nothing."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def is_number(value: Cell | Estimate) -> bool:
    """Whether a cell is set flush right."""
    return not isinstance(value, str)


def svg_source(svg: str) -> str:
    """A data URI: as a picture of its own an SVG's ids cannot clash with another's."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def anchor(title: str) -> str:
    """The part of an address that leads to a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
