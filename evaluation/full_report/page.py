"""The report as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evaluation.full_report.goals import standings
from evaluation.full_report.storing import picture
from evaluation.sections import Cell, Estimate, Section


def render(sections: Sequence[Section], figures: Mapping[str, float], about: Mapping[str, Any], short: bool) -> str:
    """HTML of all sections, headed by what was asked and what came out.

    figures: of all sections. about: `machine`, `command` and `commit`, as `gmvaluator.report` gives them. short:
    whether it is the short run, whose figures are of too few images to be quoted.
    """
    environment = Environment(
        loader=PackageLoader("evaluation.full_report", "."), autoescape=True, undefined=StrictUndefined
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
