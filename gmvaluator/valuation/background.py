"""The background of an image: how near works are to it that merely resemble it.

A distance says more where the next works are far. A plain icon is near to many works, a photograph to none, and one
threshold for both pays strangers for the icon and leaves the photograph unattributed. Copy detection therefore
normalises scores by those of a background set (Douze et al., arXiv 2106.09672); here the set is the image's own
candidates of the ranks after its likely sources. With B their mean distance, every distance d of the image counts as

    d' = d · D / (D + s (B - D))

where D is the usual background. Strength s = 0 changes nothing, and at s = 1 only the ratio d / B counts. The order of
contributors never changes. Integer arithmetic, so that it can be recomputed from the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.parameters import read_decimal
from gmvaluator.valuation.weights import MAX_DISTANCE, MILLION

_SETTINGS = {"first", "last", "distance", "strength"}


@dataclass(frozen=True, slots=True)
class Background:
    """A policy's settings. first, last: ranks whose distances are averaged, 1 is the nearest. distance: D. strength:
    s, in [0, 1]."""

    first: int
    last: int
    distance: Decimal
    strength: Decimal

    def of(self, distances: Sequence[int]) -> int | None:
        """Return B in millionths, rounded down; None if there are fewer than `last` distances."""
        if len(distances) < self.last:
            return None
        return sum(sorted(distances)[self.first - 1 : self.last]) // (self.last - self.first + 1)

    def normalised(self, distances: Sequence[int]) -> list[int]:
        """Return the distances that count, in millionths; those given if there are too few to know the background."""
        background = self.of(distances)
        if background is None:
            return list(distances)
        usual = int(self.distance * MILLION)
        divisor = usual + int(self.strength * MILLION) * (background - usual) // MILLION
        # All distances are 0 where the background is, and s = 1.
        return [min(distance * usual // max(divisor, 1), MAX_DISTANCE * MILLION) for distance in distances]

    def approximate(self, distances: npt.NDArray[np.float64], background: int | None) -> npt.NDArray[np.float64]:
        """Return what `normalised` does in floating point, for distances of a known background."""
        if background is None:
            return distances
        usual, strength = float(self.distance) * MILLION, float(self.strength)
        divisor = max(usual + strength * (background - usual), 1.0)
        return np.minimum(distances * usual / divisor, MAX_DISTANCE * MILLION)

    def parameters(self) -> dict[str, Any]:
        """Return the settings as a policy file has them."""
        return {
            "first": self.first,
            "last": self.last,
            "distance": str(self.distance),
            "strength": str(self.strength),
        }


def read_background(value: Any, k: int, reference: str) -> Background:
    """Parse a policy's `background` table. k: the policy's contributors. Raises InvalidPolicy."""
    if not isinstance(value, Mapping) or set(value) != _SETTINGS:
        raise InvalidPolicy(f"policy {reference} has a `background` that is no table of {', '.join(sorted(_SETTINGS))}")
    first, last = value["first"], value["last"]
    if (
        any(not isinstance(rank, int) or isinstance(rank, bool) for rank in (first, last))
        or not 1 <= first <= last <= k
    ):
        raise InvalidPolicy(
            f"policy {reference} has a background of ranks {first!r} to {last!r}: give whole numbers from 1 to k = {k}"
        )
    distance = read_decimal(value["distance"], "background.distance", reference)
    strength = read_decimal(value["strength"], "background.strength", reference)
    if not 0 < distance <= MAX_DISTANCE or not 0 <= strength <= 1:
        raise InvalidPolicy(
            f"policy {reference} has a background of distance {distance} and strength {strength}: give a distance "
            f"above 0, at most {MAX_DISTANCE}, and a strength from 0 to 1"
        )
    return Background(first, last, distance, strength)
