"""Shares of an image of several works: each part of the image is divided among the works that it may show.

A distance compares whole images, and an image that shows four works resembles none of them. Here the image is a grid of
16 x 16 cells. Each cell that shows anything is divided among all contributors and "no contributor" by their weights in
it, and a contributor's share of the image is its mean share of these cells (as NDA does with patches, arXiv
2510.14269). With N the weight of "no contributor", contributor i weighs in a cell

    w_i  by its distance from the whole image, in every cell;
    N · u(d') if the cell lies in the window of the image that is nearest to the work, at distance d', with
             u(d') = ((1 + g d₀ / τ) / (1 + g d' / τ))^(1/g), which is 1 at the distance d₀;
    N · exp(b + s ln n) if the cell lies in the region that n matches of local features verify to show the work;
    N · exp(b' + s' ln n) in every cell, if it was verified anywhere: a work fills more than its features show.

The weights add up. All of it is exact in integers, so that it can be recomputed from the evidence at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidPolicy
from gmvaluator.keypoints import GRID
from gmvaluator.valuation.parameters import read_decimal, read_growth, read_temperature
from gmvaluator.valuation.weights import (
    MAX_DISTANCE,
    MAX_LOGIT,
    MILLION,
    WEIGHT_SCALE,
    exponential_weight,
    relative_weight,
    similarity_weights,
)

WHOLE = (1 << GRID * GRID) - 1
"""The mask of all cells. A mask is an integer: bit GRID · y + x is the cell in row y, column x, from the top left."""

_MASK = re.compile(rf"[0-9a-f]{{{GRID * GRID // 4}}}")
_MAX_COEFFICIENT = 100
_LEAST_GROWTH = Decimal("0.000001")
"""Growth that stands for none in floating point: weights with it differ from those without by less than 10^-3."""

Values = npt.NDArray[np.float64]


class Sighting(NamedTuple):
    """Where a contributor was seen in parts of an image.

    window: mask of the window whose recall embedding is nearest to the work's, at `window_distance` millionths; 0 if
    the work is near to no window. region: mask of the cells that show it as `inliers` matches of local features verify;
    0 if it was not verified.
    """

    window: int = 0
    window_distance: int = 0
    region: int = 0
    inliers: int = 0

    @property
    def nearest(self) -> int:
        """The distance of the window, or the largest there is, in millionths."""
        return self.window_distance if self.window else MAX_DISTANCE * MILLION

    def joined(self, other: Sighting) -> Sighting:
        """Return the nearer window and the better verified region of two, for near-duplicates that count as one."""
        window = min(self, other, key=lambda sighting: sighting.nearest)
        verified = max(self, other, key=lambda sighting: sighting.inliers)
        return Sighting(window.window, window.window_distance, verified.region, verified.inliers)


NOT_SEEN = Sighting()


def shown_cells(content: int) -> int:
    """Return the mask of the cells that are divided: `content`, or all of an image that shows nothing, such as a blank
    page."""
    return content & WHOLE or WHOLE


class Parts(NamedTuple):
    """An image's cells that show anything, as a mask, and the sighting of each contributor."""

    content: int
    sightings: tuple[Sighting, ...]


class Logit(NamedTuple):
    """exp(bias + slope · ln(inliers)), as a multiple of the weight of "no contributor"."""

    bias: Decimal
    slope: Decimal

    def parameters(self) -> dict[str, str]:
        return {"bias": str(self.bias), "slope": str(self.slope)}


@dataclass(frozen=True, slots=True)
class PartsRule:
    """A policy's settings for parts. temperature, growth, distance: τ, g and d₀ of windows. verified: b and s in the
    region; elsewhere: b' and s' in every cell. members: s'' in the weights of near-duplicates that count as one
    contributor (`member_weights`); None if only their distances from the whole image count."""

    temperature: Decimal
    growth: Decimal
    distance: Decimal
    verified: Logit
    elsewhere: Logit
    members: Decimal | None = None

    def weigh(self, parts: Parts, weights: Sequence[int], none: int) -> tuple[list[int], int]:
        """Return the contributors' weights and that of "no contributor" over all cells, from those by distance."""
        rows = [_weights_of(self, sighting, none) for sighting in parts.sightings]
        everywhere = [weight + row.elsewhere for weight, row in zip(weights, rows, strict=True)]
        base = sum(everywhere) + none
        totals, unattributed = [0] * len(weights), 0
        for count, windows, regions in cells(parts):
            here = dict.fromkeys(windows, 0) | dict.fromkeys(regions, 0)
            for place in windows:
                here[place] += rows[place].window
            for place in regions:
                here[place] += rows[place].region
            # The share of one cell for each unit of weight, to 10^-30 of the cell.
            unit = count * WEIGHT_SCALE * WEIGHT_SCALE // (base + sum(here.values()))
            unattributed += none * unit // WEIGHT_SCALE
            for place, weight in enumerate(everywhere):
                totals[place] += (weight + here.get(place, 0)) * unit // WEIGHT_SCALE
        return totals, unattributed

    def member_weights(
        self, distances: Sequence[int], sightings: Sequence[Sighting], temperature: Decimal, growth: Decimal
    ) -> list[int]:
        """Return the weights that divide what a group of near-duplicates receives among its members.

        They are w · (1 + n)^s'', where w is the weight by the distance from the whole image or from the nearest window,
        whichever is nearer, and n are the matches. An image that shows several works is far from each of them as a
        whole, and only local features tell which of many like drawings it shows. temperature, growth: the policy's.
        """
        slope = self.members
        if slope is None:
            return similarity_weights(distances, temperature, growth)
        near = [min(distance, sighting.nearest) for distance, sighting in zip(distances, sightings, strict=True)]
        weights = similarity_weights(near, temperature, growth)
        return [
            weight * exponential_weight(Decimal(0), slope, 1 + sighting.inliers) // WEIGHT_SCALE
            for weight, sighting in zip(weights, sightings, strict=True)
        ]

    def parameters(self) -> dict[str, Any]:
        """Return the settings as a policy file has them."""
        windows = {"temperature": str(self.temperature), "distance": str(self.distance)}
        if self.growth:
            windows["temperature_growth"] = str(self.growth)
        members = {} if self.members is None else {"members": {"slope": str(self.members)}}
        return {
            "windows": windows,
            "verified": self.verified.parameters(),
            "elsewhere": self.elsewhere.parameters(),
            **members,
        }


def approximate_shares(
    rules: Sequence[PartsRule], parts: Parts, weights: Values, none: Values
) -> tuple[Values, Values]:
    """Compute shares in floating point by each of R rules: (R, K), and (R,) of "no contributor".

    weights: (R, K), by distance. none: (R,).
    """
    window, region, elsewhere = none[None, :, None] * _approximate_weights(rules, parts.sightings)
    everywhere = weights + elsewhere
    totals, unattributed = np.zeros_like(everywhere), np.zeros_like(none)
    for count, windows, regions in cells(parts):
        here = everywhere.copy()
        here[:, windows] += window[:, windows]
        here[:, regions] += region[:, regions]
        unit = count / (here.sum(axis=1) + none)
        totals += unit[:, None] * here
        unattributed += unit * none
    shown = shown_cells(parts.content).bit_count()
    return totals / shown, unattributed / shown


def _approximate_weights(rules: Sequence[PartsRule], sightings: Sequence[Sighting]) -> Values:
    """Return (3, R, K): the parts' weights of each contributor by each rule, as multiples of "no contributor"'s."""
    settings = np.array(
        [
            [rule.temperature, max(rule.growth, _LEAST_GROWTH), rule.distance, *rule.verified, *rule.elsewhere]
            for rule in rules
        ],
        dtype=np.float64,
    )
    temperature, growth, distance, bias, slope, bias_elsewhere, slope_elsewhere = settings.T[:, :, None]
    distances = np.array([sighting.window_distance / MILLION for sighting in sightings])
    inliers = np.array([max(sighting.inliers, 1) for sighting in sightings])
    seen = np.array([bool(sighting.window) for sighting in sightings])
    verified = np.array([bool(sighting.inliers) for sighting in sightings])
    nearness = np.log((temperature + growth * distance) / (temperature + growth * distances)) / growth
    region, elsewhere = bias + slope * np.log(inliers), bias_elsewhere + slope_elsewhere * np.log(inliers)
    # Bounded as the exact ones are: a weight that is not finite would leave an image without intervals.
    return np.stack(
        [
            np.where(seen, np.exp(np.minimum(nearness, MAX_LOGIT)), 0.0),
            *(np.where(verified, np.exp(np.clip(logit, -MAX_LOGIT, MAX_LOGIT)), 0.0) for logit in (region, elsewhere)),
        ]
    )


class _Weights(NamedTuple):
    """A contributor's weights in the cells of its window, in those of its region, and in all."""

    window: int
    region: int
    elsewhere: int


@lru_cache(maxsize=65_536)
def _weights_of(rule: PartsRule, sighting: Sighting, none: int) -> _Weights:
    window = region = elsewhere = 0
    if sighting.window:
        reference = int(rule.distance * MILLION)
        window = relative_weight(sighting.window_distance, reference, rule.temperature, rule.growth)
    if sighting.inliers:
        region = exponential_weight(*rule.verified, sighting.inliers)
        elsewhere = exponential_weight(*rule.elsewhere, sighting.inliers)
    return _Weights(*(none * weight // WEIGHT_SCALE for weight in (window, region, elsewhere)))


def cells(parts: Parts) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield sets of like cells: their number, and the contributors whose window, and whose region, hold them."""
    alike: dict[int, tuple[list[int], list[int]]] = {shown_cells(parts.content): ([], [])}
    for kind, mask_of in enumerate((_window, _region)):
        for place, sighting in enumerate(parts.sightings):
            alike = dict(_split(alike, mask_of(sighting), kind, place))
    for mask, (windows, regions) in alike.items():
        yield mask.bit_count(), windows, regions


def _split(
    alike: Mapping[int, tuple[list[int], list[int]]], mask: int, kind: int, place: int
) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
    """Yield the sets of cells, those that `mask` divides as two; `place` is added to list `kind` of those inside."""
    for whole, lists in alike.items():
        if outside := whole & ~mask:
            yield outside, lists
        if inside := whole & mask:
            windows, regions = lists
            yield inside, ([*windows, place], regions) if kind == 0 else (windows, [*regions, place])


def _window(sighting: Sighting) -> int:
    return sighting.window


def _region(sighting: Sighting) -> int:
    return sighting.region if sighting.inliers else 0


def read_parts(value: Any, reference: str) -> PartsRule:
    """Parse a policy's `parts` table. Raises InvalidPolicy."""
    if not isinstance(value, Mapping) or set(value) - {"members"} != {"windows", "verified", "elsewhere"}:
        raise InvalidPolicy(f"policy {reference} has `parts` that are no tables of windows, verified and elsewhere")
    windows = value["windows"]
    known = {"temperature", "temperature_growth", "distance"}
    if not isinstance(windows, Mapping) or not {"temperature", "distance"} <= set(windows) <= known:
        raise InvalidPolicy(f"policy {reference} needs parts.windows with a temperature and a distance")
    distance = read_decimal(windows["distance"], "parts.windows.distance", reference)
    if not 0 <= distance <= MAX_DISTANCE:
        raise InvalidPolicy(f"policy {reference} has parts.windows.distance = {distance}: give 0 to {MAX_DISTANCE}")
    return PartsRule(
        read_temperature(windows, f"{reference}: parts.windows"),
        read_growth(windows, f"{reference}: parts.windows"),
        distance,
        _logit(value["verified"], "parts.verified", reference),
        _logit(value["elsewhere"], "parts.elsewhere", reference),
        _members(value["members"], reference) if "members" in value else None,
    )


def _members(value: Any, reference: str) -> Decimal:
    if not isinstance(value, Mapping) or set(value) != {"slope"}:
        raise InvalidPolicy(f"policy {reference} has a `parts.members` that is no table of slope")
    slope = read_decimal(value["slope"], "parts.members.slope", reference)
    if not 0 <= slope <= _MAX_COEFFICIENT:
        raise InvalidPolicy(f"policy {reference} has parts.members.slope = {slope}: give 0 to {_MAX_COEFFICIENT}")
    return slope


def _logit(value: Any, setting: str, reference: str) -> Logit:
    if not isinstance(value, Mapping) or set(value) != {"bias", "slope"}:
        raise InvalidPolicy(f"policy {reference} has a `{setting}` that is no table of bias and slope")
    bias, slope = (read_decimal(value[name], f"{setting}.{name}", reference) for name in ("bias", "slope"))
    if abs(bias) > _MAX_COEFFICIENT or abs(slope) > _MAX_COEFFICIENT:
        raise InvalidPolicy(
            f"policy {reference} has {setting} of bias {bias} and slope {slope}: give {_MAX_COEFFICIENT} at most"
        )
    return Logit(bias, slope)


def visible_share(region: int, content: int) -> float:
    """Return the share of an image's cells that show anything, `content`, which lie in `region`; in [0, 1]."""
    shown = shown_cells(content)
    return (region & shown).bit_count() / shown.bit_count()


def visible_text(share: float, matches: int) -> str:
    """Say how much of an image shows a work: "visible in 24% of the image, 41 matches". share: in [0, 1]."""
    percent = "under 1" if 0 < share < 0.01 else f"{100 * share:.0f}"
    return f"visible in {percent}% of the image, {matches:,} matches"


def mask_text(mask: int) -> str:
    """Return a mask as 64 hex digits, as evidence and messages keep it."""
    return f"{mask & WHOLE:0{GRID * GRID // 4}x}"


def mask_bytes(mask: int) -> bytes:
    """Return a mask as 32 bytes, lowest bits first."""
    return (mask & WHOLE).to_bytes(GRID * GRID // 8, "little")


def read_mask(text: str) -> int:
    """Parse the result of `mask_text`. Raises ValueError."""
    # `int` alone would also take a sign, spaces, underscores and a prefix, and a negative mask has endless cells.
    if not _MASK.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no mask: {GRID * GRID // 4} hexadecimal digits are needed")
    return int(text, 16)
