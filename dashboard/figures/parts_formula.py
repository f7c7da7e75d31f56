"""The formula of a policy that counts parts: each cell of the image is divided among the works that it may show.

Weights are given as multiples of that of "no contributor", so that they can be compared between cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dashboard.figures.background_formula import background_steps
from gmvaluator.keypoints import GRID
from gmvaluator.valuation.parts import Logit, Parts, PartsRule, Sighting, shown_cells
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.residual import VirtualContributor
from gmvaluator.valuation.weights import MAX_LOGIT, MILLION

_MINUS = "\N{MINUS SIGN}"
_MAX_EXPONENT = 700.0
"""Largest exponent given to `exp`; e^709 is the largest that a float holds."""


def parts_steps(
    policy: Policy,
    rule: PartsRule,
    parts: Parts,
    distances: Sequence[int],
    share: float,
    unattributed: float,
    quality: float,
) -> Iterator[dict[str, str]]:
    """Yield the steps from the first contributor's sighting to its credit.

    distances: the contributors', in millionths. share: its share; unattributed: the rest's; both in [0, 1].
    """
    shown, sighting = shown_cells(parts.content), parts.sightings[0]
    yield {
        "what": f"The image is a grid of {GRID} × {GRID} cells; those that show anything are divided one by one",
        "how": f"n = {shown.bit_count()} cells",
    }
    yield {
        "what": "In each cell every contributor has a weight, and so has “unattributed”: that one is always 1",
        "how": "share of a cell = weight / (1 + Σ weights in the cell)",
    }
    yield from background_steps(policy, distances)
    yield _distance_step(policy, policy.counted_distances(distances)[0])
    if sighting.window:
        yield _window_step(rule, sighting, shown)
    if sighting.inliers:
        yield from _verified_steps(rule, sighting, shown)
    yield {
        "what": "Share of the first: the mean of its shares of the cells, in which the other contributors take part",
        "how": f"s = Σ (shares of the cells) / n = {share:.6f}",
    }
    yield {
        "what": "Unattributed share r: the mean of its own shares of the cells",
        "how": f"r = Σ 1 / (1 + Σ weights in the cell) / n = {unattributed:.6f}",
    }
    yield {"what": "Credit of the first", "how": f"q · s = {quality:.6f} · {share:.6f} = {quality * share:.6f}"}


def _distance_step(policy: Policy, distance: int) -> dict[str, str]:
    """Describe the weight by the distance of the whole image. A policy that counts parts has a virtual contributor."""
    assert isinstance(policy.residual, VirtualContributor)
    near, reference = distance / MILLION, float(policy.residual.distance)
    weight = _number(_nearness(near, reference, float(policy.temperature), float(policy.growth)))
    how = f"e^(({reference:g} {_MINUS} {near:.6f}) / {policy.temperature}) = {weight}"
    if policy.growth:
        settings = f"with τ = {policy.temperature}, g = {policy.growth}"
        how = f"((τ + g · {reference:g}) / (τ + g · {near:.6f}))^(1 / g) = {weight}, {settings}"
    return {
        "what": f"Weight of the first in every cell, by the distance {near:.6f} of the whole image: 1 at {reference:g}",
        "how": how,
    }


def _window_step(rule: PartsRule, sighting: Sighting, shown: int) -> dict[str, str]:
    near, reference = sighting.window_distance / MILLION, float(rule.distance)
    weight = _nearness(near, reference, float(rule.temperature), float(rule.growth))
    cells = (sighting.window & shown).bit_count()
    return {
        "what": f"In the {cells} cells of the window nearest to it, by its distance {near:.6f}: 1 at {reference:g}",
        "how": f"+ {_number(weight)}",
    }


def _verified_steps(rule: PartsRule, sighting: Sighting, shown: int) -> Iterator[dict[str, str]]:
    cells, matches = (sighting.region & shown).bit_count(), sighting.inliers
    yield {
        "what": f"In the {cells} cells where {matches} matches of local features verify it",
        "how": f"+ {_logit_text(rule.verified, matches)}",
    }
    yield {
        "what": "In every cell, because it was verified: a work fills more than its features show",
        "how": f"+ {_logit_text(rule.elsewhere, matches)}",
    }


def _logit_text(logit: Logit, matches: int) -> str:
    value = float(logit.bias) + float(logit.slope) * math.log(matches)
    weight = math.exp(max(min(value, MAX_LOGIT), -MAX_LOGIT))
    exponent = f"{logit.bias} + {logit.slope} · ln {matches}".replace("+ -", f"{_MINUS} ").replace("-", _MINUS)
    return f"e^({exponent}) = {_number(weight)}"


def _nearness(distance: float, reference: float, temperature: float, growth: float) -> float:
    """Return the weight at a distance as a multiple of that at `reference`."""
    if growth:
        exponent = math.log((temperature + growth * reference) / (temperature + growth * distance)) / growth
    else:
        exponent = (reference - distance) / temperature
    return math.exp(min(exponent, _MAX_EXPONENT))


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1_000 else f"{value:,.0f}"
