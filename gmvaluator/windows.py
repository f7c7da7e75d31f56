"""Windows of a generated image, by which works that fill a part of it are recalled.

A window is a box of the square into which the whole image is fitted. Where works were seen is kept as masks of a grid
of the same square; see `valuation.parts`.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from gmvaluator.keypoints import GRID


class Box(NamedTuple):
    """Left, top, right and bottom, as fractions of the square's side."""

    left: float
    top: float
    right: float
    bottom: float

    def pixels(self, side_px: int) -> tuple[int, int, int, int]:
        """Return the box in a square of this side, in pixels."""
        left, top, right, bottom = (round(edge * side_px) for edge in self)
        return left, top, right, bottom


def _grid(columns: int, rows: int) -> tuple[Box, ...]:
    return tuple(
        Box(column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        for row, column in product(range(rows), range(columns))
    )


_GRIDS = ((2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (3, 2), (2, 3))
WINDOWS = (*(box for grid in _GRIDS for box in _grid(*grid)), Box(0.25, 0.25, 0.75, 0.75))
"""Halves, quadrants, thirds and sixths of the square, and its centre."""


def _mask(box: Box) -> int:
    across = _cells(box.left, box.right)
    down = _cells(box.top, box.bottom)
    return sum(1 << GRID * y + x for y, x in product(down, across))


def _cells(start: float, end: float) -> list[int]:
    """Return the cells along one side whose centres lie between two fractions of it."""
    return [cell for cell in range(GRID) if start <= (cell + 0.5) / GRID < end]


WINDOW_MASKS = tuple(map(_mask, WINDOWS))
"""The cells whose centres each window holds, as masks (see `valuation.parts`)."""
