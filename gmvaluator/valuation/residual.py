"""The share of "no contributor": what is paid to nobody when nothing that was trained on is near enough.

Both ways are exact in integers of 10^-30, on distances in millionths, so that they can be computed again for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.weights import (
    MAX_DISTANCE,
    MAX_LOGIT,
    MILLION,
    odds_weight,
    similarity_weights,
    similarity_weights_roughly,
)

_MAX_COEFFICIENT = 10_000
_MAX_RANKS = 16
_MAX_EXPONENT = 700.0


@dataclass(frozen=True, slots=True)
class VirtualContributor:
    """One contributor more, at `distance` from every image, whom nobody is:

    r = exp(-d_0 / τ) / (exp(-d_0 / τ) + Σ_l exp(-d_l / τ)), or with the weights of a τ that grows.
    """

    distance: Decimal

    def weigh(
        self, distances: Sequence[int], temperature: Decimal, growth: Decimal = Decimal(0)
    ) -> tuple[list[int], int]:
        """Weights of the contributors at these distances (millionths, nearest first), and of nobody."""
        *weights, nobody = similarity_weights([*distances, int(self.distance * MILLION)], temperature, growth)
        return weights, nobody

    def roughly(
        self,
        distances: Sequence[int],
        temperature: float,
        growth: float = 0.0,
        total: float | None = None,  # noqa: ARG002 - a gate needs it
    ) -> float:
        """Nobody's weight where the nearest weighs 1, in floating point: for shares that are not yet money.

        total: the contributors' weights together, if the caller has them.
        """
        place, near = float(self.distance) * MILLION, min(distances)
        if growth:
            scale = MILLION * temperature
            exponent = math.log((scale + growth * near) / (scale + growth * place)) / growth
        else:
            exponent = (near - place) / MILLION / temperature
        return math.exp(min(exponent, _MAX_EXPONENT))

    def parameters(self) -> dict[str, Any]:
        """As the policy's file says it."""
        return {"distance": str(self.distance)}


@dataclass(frozen=True, slots=True)
class Gate:
    """A logistic regression on how near the nearest are: r = 1 / (1 + exp(-(bias + Σ_j c_j · d_(j)))).

    ranks: pairs (j, c_j), d_(j) being the distance of the j-th nearest, in [0, 2]; 2 if there are fewer.
    """

    bias: Decimal
    ranks: tuple[tuple[int, Decimal], ...]

    def weigh(
        self, distances: Sequence[int], temperature: Decimal, growth: Decimal = Decimal(0)
    ) -> tuple[list[int], int]:
        """As `VirtualContributor.weigh`."""
        weights = similarity_weights(distances, temperature, growth)
        return weights, odds_weight(sum(weights), self._logit(distances))

    def roughly(
        self, distances: Sequence[int], temperature: float, growth: float = 0.0, total: float | None = None
    ) -> float:
        """As `VirtualContributor.roughly`."""
        if total is None:
            total = sum(similarity_weights_roughly(distances, temperature, growth))
        return total * math.exp(max(min(float(self._logit(distances)), MAX_LOGIT), -MAX_LOGIT))

    def _logit(self, distances: Sequence[int]) -> Decimal:
        ordered = sorted(distances)
        far = MAX_DISTANCE * MILLION
        logit = self.bias * MILLION
        for rank, coefficient in self.ranks:
            logit += coefficient * (ordered[rank - 1] if rank <= len(ordered) else far)
        return logit / MILLION

    def parameters(self) -> dict[str, Any]:
        """As the policy's file says it."""
        return {"bias": str(self.bias), "ranks": {str(rank): str(value) for rank, value in self.ranks}}


Residual = VirtualContributor | Gate


def read_residual(value: Any, k: int, reference: str) -> Residual:
    """What a policy's `residual` table says. Raises InvalidPolicy."""
    if isinstance(value, Mapping) and set(value) == {"distance"}:
        distance = number(value["distance"], "residual.distance", reference)
        if not 0 <= distance <= MAX_DISTANCE:
            raise InvalidPolicy(f"policy {reference} has residual.distance = {distance}: give 0 to {MAX_DISTANCE}")
        return VirtualContributor(distance)
    if isinstance(value, Mapping) and set(value) == {"bias", "ranks"} and isinstance(value["ranks"], Mapping):
        bias = number(value["bias"], "residual.bias", reference)
        return Gate(bias, _ranks(value["ranks"], k, reference))
    raise InvalidPolicy(f"policy {reference} has a residual that is neither `distance` nor `bias` with `ranks`")


def _ranks(value: Mapping[str, Any], k: int, reference: str) -> tuple[tuple[int, Decimal], ...]:
    if not 1 <= len(value) <= _MAX_RANKS:
        raise InvalidPolicy(f"policy {reference} has {len(value)} residual.ranks: give 1 to {_MAX_RANKS}")
    wrong = [rank for rank in value if not rank.isascii() or not rank.isdigit() or not 1 <= int(rank) <= k]
    if wrong:
        raise InvalidPolicy(f"policy {reference} has residual.ranks of {wrong[0]!r}: give ranks from 1 to k = {k}")
    found = {int(rank): number(text, f"residual.ranks.{rank}", reference) for rank, text in value.items()}
    if len(found) != len(value):
        raise InvalidPolicy(f"policy {reference} names a rank twice in residual.ranks")
    return tuple(sorted(found.items()))


def number(text: Any, setting: str, reference: str) -> Decimal:
    """A decimal string of a policy's file, at most 10,000 in size with six decimals. Raises InvalidPolicy."""
    try:
        value = Decimal(text) if isinstance(text, str) else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) > _MAX_COEFFICIENT or value != round(value, 6):
        raise InvalidPolicy(
            f'policy {reference} has {setting} = {text!r}: give a decimal string such as "0.25", with six decimals '
            f"at most and no more than {_MAX_COEFFICIENT:,} in size"
        )
    return value
