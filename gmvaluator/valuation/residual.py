"""Residuals: the share of a credit that no contributor earns, because nothing in the index is near enough.

Both kinds are exact in integers of 10^-30, on distances in millionths, so that they can be recomputed at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.parameters import read_decimal
from gmvaluator.valuation.weights import (
    MAX_DISTANCE,
    MAX_LOGIT,
    MILLION,
    approximate_similarity_weights,
    odds_weight,
    similarity_weights,
)

_MAX_RANKS = 16
_MAX_EXPONENT = 700.0
"""Largest exponent given to `exp`; e^709 is the largest that a float holds."""


@dataclass(frozen=True, slots=True)
class VirtualContributor:
    """An additional contributor, at a fixed `distance` from every image, whose share is unattributed:

    r = exp(-d_0 / τ) / (exp(-d_0 / τ) + Σ_l exp(-d_l / τ)), or the same with the weights of a growing τ.
    """

    distance: Decimal

    def weigh(
        self, distances: Sequence[int], temperature: Decimal, growth: Decimal = Decimal(0)
    ) -> tuple[list[int], int]:
        """Return the weights of contributors at these distances (millionths, nearest first), and the residual's."""
        *weights, residual_weight = similarity_weights([*distances, int(self.distance * MILLION)], temperature, growth)
        return weights, residual_weight

    def approximate_weight(
        self,
        distances: Sequence[int],
        temperature: float,
        growth: float = 0.0,
        total: float | None = None,  # noqa: ARG002 - a gate needs it
    ) -> float:
        """Return the residual's weight in floating point, where the nearest weighs 1: for shares that are not money.

        total: sum of the contributors' weights, if the caller has it.
        """
        own, nearest = float(self.distance) * MILLION, min(distances)
        if growth:
            scale = MILLION * temperature
            exponent = math.log((scale + growth * nearest) / (scale + growth * own)) / growth
        else:
            exponent = (nearest - own) / MILLION / temperature
        return math.exp(min(exponent, _MAX_EXPONENT))

    def parameters(self) -> dict[str, Any]:
        """Return the settings as a policy file has them."""
        return {"distance": str(self.distance)}


@dataclass(frozen=True, slots=True)
class Gate:
    """A logistic regression on the distances of the nearest candidates: r = 1 / (1 + exp(-(bias + Σ_j c_j · d_(j)))).

    ranks: pairs (j, c_j), where d_(j) is the distance of the j-th nearest, in [0, 2], or 2 if there are fewer than j.
    """

    bias: Decimal
    ranks: tuple[tuple[int, Decimal], ...]

    def weigh(
        self, distances: Sequence[int], temperature: Decimal, growth: Decimal = Decimal(0)
    ) -> tuple[list[int], int]:
        """Return the weights of contributors at these distances, and the residual's; see `VirtualContributor.weigh`."""
        weights = similarity_weights(distances, temperature, growth)
        return weights, odds_weight(sum(weights), self._logit(distances))

    def approximate_weight(
        self, distances: Sequence[int], temperature: float, growth: float = 0.0, total: float | None = None
    ) -> float:
        """Return the residual's weight; see `VirtualContributor.approximate_weight`."""
        if total is None:
            total = sum(approximate_similarity_weights(distances, temperature, growth))
        return total * math.exp(max(min(float(self._logit(distances)), MAX_LOGIT), -MAX_LOGIT))

    def _logit(self, distances: Sequence[int]) -> Decimal:
        ordered = sorted(distances)
        far = MAX_DISTANCE * MILLION
        # In millionths until the end: sums and products of integers and six decimals are exact.
        logit = self.bias * MILLION
        for rank, coefficient in self.ranks:
            logit += coefficient * (ordered[rank - 1] if rank <= len(ordered) else far)
        return logit / MILLION

    def parameters(self) -> dict[str, Any]:
        """Return the settings as a policy file has them."""
        return {"bias": str(self.bias), "ranks": {str(rank): str(value) for rank, value in self.ranks}}


Residual = VirtualContributor | Gate


def read_residual(value: Any, k: int, reference: str) -> Residual:
    """Parse a policy's `residual` table; k: the policy's contributors. Raises InvalidPolicy."""
    if isinstance(value, Mapping) and set(value) == {"distance"}:
        distance = read_decimal(value["distance"], "residual.distance", reference)
        if not 0 <= distance <= MAX_DISTANCE:
            raise InvalidPolicy(f"policy {reference} has residual.distance = {distance}: give 0 to {MAX_DISTANCE}")
        return VirtualContributor(distance)
    if isinstance(value, Mapping) and set(value) == {"bias", "ranks"} and isinstance(value["ranks"], Mapping):
        bias = read_decimal(value["bias"], "residual.bias", reference)
        return Gate(bias, _ranks(value["ranks"], k, reference))
    raise InvalidPolicy(f"policy {reference} has a residual that is neither `distance` nor `bias` with `ranks`")


def _ranks(value: Mapping[str, Any], k: int, reference: str) -> tuple[tuple[int, Decimal], ...]:
    if not 1 <= len(value) <= _MAX_RANKS:
        raise InvalidPolicy(f"policy {reference} has {len(value)} residual.ranks: give 1 to {_MAX_RANKS}")
    wrong = [rank for rank in value if not rank.isascii() or not rank.isdigit() or not 1 <= int(rank) <= k]
    if wrong:
        raise InvalidPolicy(f"policy {reference} has residual.ranks of {wrong[0]!r}: give ranks from 1 to k = {k}")
    coefficients = {int(rank): read_decimal(text, f"residual.ranks.{rank}", reference) for rank, text in value.items()}
    # "1" and "01" are two keys of the table and one rank.
    if len(coefficients) != len(value):
        raise InvalidPolicy(f"policy {reference} names a rank twice in residual.ranks")
    return tuple(sorted(coefficients.items()))
