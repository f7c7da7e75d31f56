"""How unsure a share is: from the fit of the policy, the cut at k, and what the index may have missed.

A fitted policy carries *replicates*: the same fit to resamples of whole artists. A share's interval holds the middle
95 % of what the replicates make of it, widened below by the weight of contributors that were not counted: those
after the cut, and those that a compressed index did not find. It says how far the figure can be trusted as a figure,
not that likeness is cause.

Intervals are computed in floats and kept in millionths. They decide no amount but one: a policy may hold back what is
less sure than `hold_above`, and whether it did is kept in the evidence, so that a replay needs no float.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.residual import Residual, number, read_residual
from gmvaluator.valuation.weights import MILLION

MAX_REPLICATES = 1_000
_MAX_GROWTH = 10
_TAILS = (2.5, 97.5)
_HASH = re.compile(r"[0-9a-f]{64}")

Values = npt.NDArray[np.float64]
Interval = tuple[int, int]
"""Lowest and highest, in millionths of the credit."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """What was not counted. cut: distances after the cut, in millionths, nearest first. unlisted: how many more were
    recalled and lie no nearer than those. recall: share of the true neighbours that the index finds, in (0, 1]; None
    where it was never measured, and then it widens nothing. Those it misses are taken to be like those it finds.
    """

    cut: Sequence[int] = ()
    unlisted: int = 0
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Replicate:
    """One refit of the policy: its temperature, how that grows, and its residual."""

    temperature: Decimal
    growth: Decimal
    residual: Residual | None

    def parameters(self) -> dict[str, Any]:
        """As the policy's file says it."""
        said: dict[str, Any] = {"temperature": str(self.temperature)}
        if self.growth:
            said["temperature_growth"] = str(self.growth)
        return said if self.residual is None else {**said, "residual": self.residual.parameters()}


@dataclass(frozen=True, slots=True)
class Intervals:
    """contributors: one for each, as given. nobody: of the share that no contributor earns."""

    contributors: tuple[Interval, ...]
    nobody: Interval


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What a policy says of its own fit. hold_above: millionths; a share whose interval is wider is held back.

    The evidence keeps the count and the hash of the replicates, which stand in the policy's file.
    """

    count: int
    sha256: str
    hold_above: int | None = None
    replicates: tuple[Replicate, ...] = field(default=(), compare=False, repr=False)

    def parameters(self) -> dict[str, Any]:
        """For the evidence."""
        said: dict[str, Any] = {"count": self.count, "sha256": self.sha256}
        return said if self.hold_above is None else {**said, "hold_above": str(Decimal(self.hold_above) / MILLION)}

    def too_unsure(self, interval: Interval) -> bool:
        """Whether a contributor with this interval is held back."""
        return self.hold_above is not None and interval[1] - interval[0] > self.hold_above

    def intervals(
        self, distances: Sequence[int], shares: Sequence[float], nobody: float, hidden: Hidden
    ) -> Intervals | None:
        """Intervals of `shares` and of `nobody`'s, for distances in millionths, nearest first.

        Each holds the share itself. None if the replicates are not at hand: they stand in the policy's file.
        """
        if not self.replicates or not distances:
            return None
        weights = self._weights(np.array([*distances, *hidden.cut], dtype=np.float64))
        counted, cut = weights[:, : len(distances)], weights[:, len(distances) :]
        totals = counted.sum(axis=1)
        nobody_weights = self._nobody(distances, totals)
        kept = counted / (totals + nobody_weights)[:, None]
        left = nobody_weights / (totals + nobody_weights)
        farthest = weights.min(axis=1) * hidden.unlisted
        recall = 1.0 if hidden.recall is None else hidden.recall
        beyond = (cut.sum(axis=1) + farthest) / totals + (1 - recall) / recall
        low = np.percentile(kept / (1 + beyond[:, None]), _TAILS[0], axis=0).tolist()
        high = np.percentile(kept, _TAILS[1], axis=0).tolist()
        own = tuple(_interval(*one) for one in zip(low, high, shares, strict=True))
        rest = np.percentile(left, _TAILS).tolist()
        return Intervals(own, _interval(rest[0] * recall, rest[1], nobody))

    def _weights(self, distances: Values) -> Values:
        """(B, K) as `valuation.similarity_weights_roughly`, by each replicate."""
        scales = np.array([[float(one.temperature) * MILLION] for one in self.replicates])
        growths = np.array([[float(one.growth)] for one in self.replicates])
        nearest = distances.min()
        plain = (nearest - distances) / scales
        safe = np.where(growths > 0, growths, 1.0)
        grown = np.log((scales + safe * nearest) / (scales + safe * distances)) / safe
        weights: Values = np.exp(np.where(growths > 0, grown, plain))
        return weights

    def _nobody(self, distances: Sequence[int], totals: Values) -> Values:
        """(B,) nobody's weight, by each replicate."""
        return np.array(
            [
                0.0
                if one.residual is None
                else one.residual.roughly(distances, float(one.temperature), float(one.growth), total)
                for one, total in zip(self.replicates, totals.tolist(), strict=True)
            ]
        )


def _interval(low: float, high: float, share: float) -> Interval:
    floor = math.floor(min(low, share) * MILLION)
    ceiling = math.ceil(max(high, share) * MILLION)
    return max(floor, 0), min(ceiling, MILLION)


def read_uncertainty(value: Any, k: int, reference: str) -> Uncertainty:
    """What a policy's `uncertainty` table says, in its file or in evidence. Raises InvalidPolicy."""
    if not isinstance(value, Mapping):
        raise InvalidPolicy(f"policy {reference} has an `uncertainty` that is no table")
    hold_above = _hold_above(value["hold_above"], reference) if "hold_above" in value else None
    said = set(value) - {"hold_above"}
    if said == {"count", "sha256"}:
        count, sha256 = value["count"], value["sha256"]
        whole = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_REPLICATES
        if whole and isinstance(sha256, str) and _HASH.fullmatch(sha256):
            return Uncertainty(count, sha256, hold_above)
    if said == {"replicates"}:
        replicates = _replicates(value["replicates"], k, reference)
        return Uncertainty(len(replicates), _digest(replicates), hold_above, replicates)
    raise InvalidPolicy(
        f"policy {reference} has an `uncertainty` without `replicates`: fit it by `gmvaluator calibrate`"
    )


def _replicates(value: Any, k: int, reference: str) -> tuple[Replicate, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_REPLICATES:
        raise InvalidPolicy(f"policy {reference} needs 2 to {MAX_REPLICATES:,} uncertainty.replicates")
    return tuple(_replicate(one, k, f"{reference}: replicate {place}") for place, one in enumerate(value, start=1))


def _replicate(value: Any, k: int, where: str) -> Replicate:
    known = {"temperature", "temperature_growth", "residual"}
    if not isinstance(value, Mapping) or not {"temperature"} <= set(value) <= known:
        raise InvalidPolicy(f"policy {where} needs a temperature, and a residual if the policy has one")
    temperature = number(value["temperature"], "temperature", where)
    if not Decimal("0.0001") <= temperature <= 1000:
        raise InvalidPolicy(f"policy {where} has temperature = {temperature}: give 0.0001 to 1000")
    growth = number(value.get("temperature_growth", "0"), "temperature_growth", where)
    if not 0 <= growth <= _MAX_GROWTH:
        raise InvalidPolicy(f"policy {where} has temperature_growth = {growth}: give 0 to {_MAX_GROWTH}")
    return Replicate(temperature, growth, read_residual(value["residual"], k, where) if "residual" in value else None)


def _digest(replicates: Sequence[Replicate]) -> str:
    plain = [replicate.parameters() for replicate in replicates]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _hold_above(text: Any, reference: str) -> int:
    width = number(text, "uncertainty.hold_above", reference)
    if not 0 <= width <= 1:
        raise InvalidPolicy(f"policy {reference} holds back above {width}: give a width from 0 to 1")
    return int(width * MILLION)
