"""Regions: the cells of an image in which verified works are visible, and the cells of each work that are seen.

A verified work may show wherever its own content is placed by the transform. Where several works may show, such as the
neighbours in a collage of which each was cut to its part, the work whose inliers are densest in the cell does, and
others whose density is close, such as those of two blended works. What one region shows is thereby explained once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from gmvaluator.keypoints import GRID, LocalFeatures
from gmvaluator.local_features.verification import Verified

RADIUS = 0.07
"""Standard deviation of an inlier's neighbourhood, as a share of the image's side."""

NEAR_DENSITY = 0.6
"""Density of inliers from which a cell shows the work wherever its content ends."""

FLOOR_DENSITY = 0.02
"""Density in cells far from every inlier."""

CLOSE = 0.35
"""Density, as a multiple of the densest work's, from which another work shows in a cell as well."""

Name = TypeVar("Name", bound=Hashable)
Cells = npt.NDArray[np.bool_]

_steps = (np.arange(GRID) + 0.5) / GRID
_CENTRES = _steps[None, :] + 1j * _steps[:, None]


class Region(NamedTuple):
    """Masks of the cells of the image that show a work, and of the cells of the work that are seen (see `mask_of`)."""

    image: int
    work: int


def regions(verified: Mapping[Name, Verified], works: Mapping[Name, LocalFeatures]) -> dict[Name, Region]:
    """Return the regions of verified works, by name; works whose cells others show better have none."""
    if not verified:
        return {}
    names = list(verified)
    densities = np.stack([_density(verified[name], works[name].content) for name in names])
    shown = (densities > 0) & (densities >= CLOSE * densities.max(axis=0))
    return {
        name: Region(mask_of(cells), mask_of(_seen(verified[name], cells, works[name].content)))
        for name, cells in zip(names, shown, strict=True)
        if cells.any()
    }


def _density(position: Verified, content: Cells) -> npt.NDArray[np.float64]:
    """Return the density of inliers in each cell of the image, 0 where the work cannot show."""
    distances = np.abs(_CENTRES[:, :, None] - position.points)
    density = np.exp(-(distances**2) / (2 * RADIUS**2)).sum(axis=2)
    inside = _at(content, position.in_work(_CENTRES))
    return np.where(inside | (density > NEAR_DENSITY), FLOOR_DENSITY + density, 0.0)


def _seen(position: Verified, shown: Cells, content: Cells) -> Cells:
    """Return the cells of the work that lie in the cells of the image that show it."""
    return content & _at(shown, position.in_image(_CENTRES))


def _at(cells: Cells, points: npt.NDArray[np.complex128]) -> Cells:
    """Return the values of `cells` at points, False outside the image."""
    across, down = np.floor(points.real * GRID).astype(int), np.floor(points.imag * GRID).astype(int)
    inside = (across >= 0) & (across < GRID) & (down >= 0) & (down < GRID)
    return np.asarray(inside & cells[np.where(inside, down, 0), np.where(inside, across, 0)])


def mask_of(cells: Cells) -> int:
    """Return cells, (GRID, GRID), as an integer: bit GRID · y + x is the cell in row y and column x."""
    return int.from_bytes(np.packbits(cells.ravel(), bitorder="little").tobytes(), "little")


def cells_of(mask: int) -> Cells:
    """Return the inverse of `mask_of`."""
    data = np.frombuffer(mask.to_bytes(GRID * GRID // 8, "little"), np.uint8)
    return np.unpackbits(data, bitorder="little").astype(bool).reshape(GRID, GRID)
