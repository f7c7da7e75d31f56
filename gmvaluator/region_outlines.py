"""Outlines of regions on a picture: from a mask of cells to closed paths, a place for a label, and a colour.

A mask is over a square into which the whole picture is fitted, centred (see `valuation.parts`). Outlines are in the
picture's own coordinates, so that they can be drawn over a copy of it of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gmvaluator.keypoints import GRID

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008), without the palest."""

MAX_DRAWN = 12
"""Most regions that are drawn over one picture; more would hide it."""

MIN_DRAWN_SHARE = 0.01
"""Least share of the credit of a contributor whose region is drawn."""

_SMALL_HOLE = 3
"""Cells of a hole, at most, that an outline passes over: a plain spot of the picture shows nothing."""

_CURVE_STEPS = 4
_LIGHT = 0.179
"""Relative luminance above which black is easier to read on a colour than white (WCAG 2.1)."""

Cell = tuple[int, int]


class Point(NamedTuple):
    """A point of a picture: x to the right, y down, from the top left corner."""

    x: float
    y: float


class Picture(NamedTuple):
    """A picture's size in any unit, on whose square masks lie."""

    width: float
    height: float

    @property
    def cell(self) -> float:
        """The side of a cell."""
        return max(self.width, self.height) / GRID

    def point(self, across: float, down: float) -> Point:
        """Return the point that is `across` and `down` cells from the square's top left corner, moved into the
        picture."""
        side = max(self.width, self.height)
        x, y = across * self.cell - (side - self.width) / 2, down * self.cell - (side - self.height) / 2
        return Point(min(max(x, 0.0), self.width), min(max(y, 0.0), self.height))

    def cells(self, mask: int) -> set[Cell]:
        """Return the cells of a mask, (column, row), that lie in the picture at least in part."""
        return {
            (x, y)
            for y in range(GRID)
            for x in range(GRID)
            if mask >> GRID * y + x & 1 and self._holds(self.point(x, y), self.point(x + 1, y + 1))
        }

    def _holds(self, start: Point, end: Point) -> bool:
        return start.x < end.x and start.y < end.y


def outlines(mask: int, picture: Picture) -> list[list[Point]]:
    """Return the closed paths around the cells of a mask, with rounded corners; those around holes run the other way.

    The last point of a path is followed by its first. Holes of up to `_SMALL_HOLE` cells have no path.
    """
    return [
        _rounded([picture.point(*corner) for corner in corners], picture.cell / 2)
        for corners in _boundaries(picture.cells(mask))
        if not -_SMALL_HOLE <= area(corners) < 0
    ]


def area(path: Sequence[tuple[float, float]]) -> float:
    """Return the area within a closed path; below 0 if it runs around a hole."""
    following = [*path[1:], path[0]]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(path, following, strict=True)) / 2


def label_points(masks: Sequence[int], picture: Picture) -> list[Point]:
    """Return a place for the label of each mask: deep inside its cells, and away from the labels before it."""
    taken: list[Cell] = []
    for mask in masks:
        cells = picture.cells(mask) or {(GRID // 2, GRID // 2)}
        taken.append(_label_cell(cells, taken))
    return [picture.point(x + 0.5, y + 0.5) for x, y in taken]


def colour(place: int) -> str:
    """Return the colour of the region at a place, from 0; after the last of them the first follows again."""
    return PALETTE[place % len(PALETTE)]


def ink(background: str) -> str:
    """Return black or white, whichever is easier to read on a colour such as "#0072b2"."""
    channels = [int(background[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > _LIGHT else "#ffffff"


def _boundaries(cells: set[Cell]) -> Iterator[list[Cell]]:
    """Yield the corners of each closed boundary, with the cells on its right hand."""
    ends = _edges(cells)
    while ends:
        start = min(ends)
        corner, direction, corners = start, (1, 0), [start]
        while True:
            step = _next_step(ends[corner], direction)
            ends[corner].remove(step)
            if not ends[corner]:
                del ends[corner]
            if step != direction and corner != start:
                corners.append(corner)
            corner, direction = (corner[0] + step[0], corner[1] + step[1]), step
            if corner == start:
                break
        yield corners


def _edges(cells: set[Cell]) -> dict[Cell, list[Cell]]:
    """Return, for each corner of a cell, the steps along a boundary that begin there."""
    ends: dict[Cell, list[Cell]] = {}
    for x, y in cells:
        for beyond, corner, step in (
            ((x, y - 1), (x, y), (1, 0)),
            ((x + 1, y), (x + 1, y), (0, 1)),
            ((x, y + 1), (x + 1, y + 1), (-1, 0)),
            ((x - 1, y), (x, y + 1), (0, -1)),
        ):
            if beyond not in cells:
                ends.setdefault(corner, []).append(step)
    return ends


def _next_step(steps: Sequence[Cell], direction: Cell) -> Cell:
    """Return the step that turns right where cells touch at a corner, so that they get boundaries of their own."""
    right = (-direction[1], direction[0])
    return right if right in steps else steps[0]


def _rounded(corners: Sequence[Point], radius: float) -> list[Point]:
    points: list[Point] = []
    for before, corner, after in zip((corners[-1], *corners[:-1]), corners, (*corners[1:], corners[0]), strict=True):
        points.extend(_curve(_towards(corner, before, radius), corner, _towards(corner, after, radius)))
    return points


def _towards(corner: Point, other: Point, radius: float) -> Point:
    """Return the point at `radius` from a corner on the way to another, or half-way if that is nearer."""
    length = abs(other.x - corner.x) + abs(other.y - corner.y)
    share = min(radius / length, 0.5) if length else 0.0
    return Point(corner.x + (other.x - corner.x) * share, corner.y + (other.y - corner.y) * share)


def _curve(start: Point, corner: Point, end: Point) -> Iterator[Point]:
    """Yield points of the quadratic Bézier curve that leads around a corner."""
    for step in range(_CURVE_STEPS + 1):
        t = step / _CURVE_STEPS
        first, middle, last = (1 - t) ** 2, 2 * t * (1 - t), t * t
        yield Point(
            first * start.x + middle * corner.x + last * end.x, first * start.y + middle * corner.y + last * end.y
        )


def _label_cell(cells: set[Cell], taken: Sequence[Cell]) -> Cell:
    centre = (sum(x for x, _ in cells) / len(cells), sum(y for _, y in cells) / len(cells))
    outside = [(x, y) for x in range(-1, GRID + 1) for y in range(-1, GRID + 1) if (x, y) not in cells]
    return min(cells, key=lambda cell: (-min(_distance(cell, outside), _distance(cell, taken)), _from(cell, centre)))


def _distance(cell: Cell, others: Sequence[Cell]) -> int:
    return min((max(abs(cell[0] - x), abs(cell[1] - y)) for x, y in others), default=2 * GRID)


def _from(cell: Cell, centre: tuple[float, float]) -> tuple[float, Cell]:
    return (cell[0] - centre[0]) ** 2 + (cell[1] - centre[1]) ** 2, cell
