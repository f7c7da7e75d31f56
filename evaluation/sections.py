"""What every benchmark hands to the report: sections of prose, figures, tables, plots and picture galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

Cell = str | int | float | None
"""A table's cell; floats are shown with four significant digits."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Table:
    """caption: what is compared, with units. rows: as many cells as there are columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Estimate]]


@dataclass(frozen=True, slots=True)
class Plot:
    """svg: a standalone SVG document, as `evaluation.plotting` makes it."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a gallery, with a line below it."""

    image: Image.Image
    caption: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows of pictures; the first of a row is often the query."""

    caption: str
    rows: Sequence[Sequence[Tile]]


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's findings.

    figures: flat names with units in them; plain numbers, for `results.json`. text: paragraphs of plain text: what
    was measured, and what the figures do and do not show. details: more plain JSON for `results.json`.
    """

    title: str
    text: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    galleries: Sequence[Gallery] = ()
    details: Mapping[str, object] = field(default_factory=dict)
