"""The data model of a report: sections of prose, figures, tables, plots and galleries, and their JSON form.

Sections are stored as JSON so that a run of hours can be resumed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

Cell = str | int | float | None
"""A table cell; floats are shown with four significant digits."""


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
    """A table. caption: what is compared, with units. rows: as many cells as there are columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Estimate]]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot. svg: a standalone SVG document, made by `evaluation.report.plots`."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a gallery with its caption."""

    image: Image.Image
    caption: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows of images; the first of a row is often the query."""

    caption: str
    rows: Sequence[Sequence[Tile]]


@dataclass(frozen=True, slots=True)
class Section:
    """The results of one benchmark.

    figures: numbers for `results.json`, by flat names that include the unit. text: paragraphs of plain text on what was
    measured, and what the figures do and do not show. details: further JSON-serializable values for `results.json`.
    """

    title: str
    text: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    galleries: Sequence[Gallery] = ()
    details: Mapping[str, object] = field(default_factory=dict)


_MAX_SIDE_PX = 160
"""Maximum side of the report's images."""


def to_json(section: Section) -> dict[str, Any]:
    """Return the section as plain JSON; images are base64 of WebP."""
    return {
        "title": section.title,
        "text": list(section.text),
        "figures": dict(section.figures),
        "tables": [table_to_json(table) for table in section.tables],
        "plots": [{"caption": plot.caption, "svg": plot.svg} for plot in section.plots],
        "galleries": [_gallery_to_json(gallery) for gallery in section.galleries],
        "details": dict(section.details),
    }


def from_json(value: Mapping[str, Any]) -> Section:
    """Return the section from the JSON of `to_json`. Raises KeyError or TypeError for any other object."""
    return Section(
        value["title"],
        value["text"],
        value["figures"],
        [_table_from_json(table) for table in value["tables"]],
        [Plot(plot["caption"], plot["svg"]) for plot in value["plots"]],
        [_gallery_from_json(gallery) for gallery in value["galleries"]],
        value["details"],
    )


def table_to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain JSON; a cell with an interval is an object of value, low and high."""
    rows = [[_cell_to_json(cell) for cell in row] for row in table.rows]
    return {"caption": table.caption, "columns": list(table.columns), "rows": rows}


def _cell_to_json(cell: Cell | Estimate) -> Any:
    if isinstance(cell, Estimate):
        return {"value": cell.value, "low": cell.low, "high": cell.high}
    return cell


def _table_from_json(value: Mapping[str, Any]) -> Table:
    rows = [[_cell_from_json(cell) for cell in row] for row in value["rows"]]
    return Table(value["caption"], value["columns"], rows)


def _cell_from_json(value: Any) -> Cell | Estimate:
    return Estimate(**value) if isinstance(value, dict) else value


def _gallery_to_json(gallery: Gallery) -> dict[str, Any]:
    rows = [[{"image": picture(tile.image), "caption": tile.caption} for tile in row] for row in gallery.rows]
    return {"caption": gallery.caption, "rows": rows}


def _gallery_from_json(value: Mapping[str, Any]) -> Gallery:
    rows: Sequence[Sequence[Tile]] = [[_tile(tile) for tile in row] for row in value["rows"]]
    return Gallery(value["caption"], rows)


def _tile(value: Mapping[str, str]) -> Tile:
    return Tile(Image.open(io.BytesIO(base64.b64decode(value["image"]))).convert("RGB"), value["caption"])


def picture(image: Image.Image) -> str:
    """Return base64 of a WebP thumbnail; images smaller than 64 px (digits) are enlarged without smoothing."""
    small = image.convert("RGB")
    if max(small.size) < 64:
        small = small.resize((small.width * 3, small.height * 3), Image.Resampling.NEAREST)
    small.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=4)
    return base64.b64encode(buffer.getvalue()).decode()
