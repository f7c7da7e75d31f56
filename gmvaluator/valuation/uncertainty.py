"""Uncertainty of shares: from the fit of the policy, the cut at k, and the recall of the index.

A fitted policy carries *replicates*: the same fit to resamples of whole artists (a bootstrap). The interval of a share
is the middle 95 % of its values by the replicates, widened downwards by the weight of contributors that were not
counted: those after the cut, and those that a compressed index missed. It measures the precision of the figure, not
whether similarity is cause.

Intervals are computed in floats and kept in millionths. They affect an amount in one case only: a policy may hold back
shares whose interval is wider than `hold_above`. The evidence records which were, so that a replay needs no float.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.background import Background, read_background
from gmvaluator.valuation.parameters import is_sha256, read_decimal, read_growth, read_temperature
from gmvaluator.valuation.parts import Parts, PartsRule, approximate_shares, read_parts
from gmvaluator.valuation.residual import Residual, read_residual
from gmvaluator.valuation.weights import MILLION

MAX_REPLICATES = 1_000
_MAX_EXPONENT = 600.0
"""Largest exponent given to `exp`: a float holds the sum of a thousand such weights."""

_TAILS = (2.5, 97.5)
"""Percentiles of the replicates between which an interval lies."""

Values = npt.NDArray[np.float64]
Interval = tuple[int, int]
"""Lowest and highest share, in millionths of the credit."""


@dataclass(frozen=True, slots=True)
class Uncounted:
    """Candidates that a valuation does not count.

    cut: distances after the cut at k, in millionths, nearest first. unlisted: how many more were recalled, none of them
    nearer than those. recall: share of the true neighbours that the index finds, in (0, 1]; the ones that it misses are
    assumed to be like those it finds. None if it was never measured, which widens nothing.
    """

    cut: Sequence[int] = ()
    unlisted: int = 0
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Replicate:
    """One refit of the policy: its temperature, the growth of that, its residual, its rule for parts, and its
    background."""

    temperature: Decimal
    growth: Decimal
    residual: Residual | None
    parts: PartsRule | None = None
    background: Background | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the settings as a policy file has them."""
        parameters: dict[str, Any] = {"temperature": str(self.temperature)}
        if self.growth:
            parameters["temperature_growth"] = str(self.growth)
        if self.residual is not None:
            parameters["residual"] = self.residual.parameters()
        if self.parts is not None:
            parameters["parts"] = self.parts.parameters()
        if self.background is not None:
            parameters["background"] = self.background.parameters()
        return parameters


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of the contributors' shares, in the order given, and of the unattributed share."""

    contributors: tuple[Interval, ...]
    unattributed: Interval


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The uncertainty of a policy's fit.

    hold_above: millionths; a share with a wider interval is held back, None holds back nothing. replicates: empty if
    read from evidence, which keeps their count and hash only; the policy file has them.
    """

    count: int
    sha256: str
    hold_above: int | None = None
    replicates: tuple[Replicate, ...] = field(default=(), compare=False, repr=False)

    def parameters(self) -> dict[str, Any]:
        """Return the settings as evidence keeps them."""
        parameters: dict[str, Any] = {"count": self.count, "sha256": self.sha256}
        if self.hold_above is not None:
            parameters["hold_above"] = str(Decimal(self.hold_above) / MILLION)
        return parameters

    def holds_back(self, interval: Interval) -> bool:
        """Return True if a contributor with this interval is held back."""
        return self.hold_above is not None and interval[1] - interval[0] > self.hold_above

    def intervals(
        self,
        distances: Sequence[int],
        shares: Sequence[float],
        unattributed: float,
        uncounted: Uncounted,
        parts: Parts | None = None,
    ) -> Intervals | None:
        """Return the intervals of `shares` and of `unattributed`, for distances in millionths.

        parts: see `Policy.shares`. Each interval contains the share itself. None without replicates, which are in the
        policy file only.
        """
        if not self.replicates or not distances:
            return None
        counted_distances = self._distances(distances, uncounted.cut)
        weights = self._weights(counted_distances, len(distances))
        counted, cut = weights[:, : len(distances)], weights[:, len(distances) :]
        totals = counted.sum(axis=1)
        residual_weights = self._residual_weights(counted_distances[:, : len(distances)], totals)
        if parts is None:
            kept = counted / (totals + residual_weights)[:, None]
            left = residual_weights / (totals + residual_weights)
        else:
            rules = [replicate.parts for replicate in self.replicates if replicate.parts is not None]
            kept, left = approximate_shares(rules, parts, counted, residual_weights)
        farthest = weights.min(axis=1) * uncounted.unlisted
        recall = 1.0 if uncounted.recall is None else uncounted.recall
        beyond = (cut.sum(axis=1) + farthest) / totals + (1 - recall) / recall
        low = np.percentile(kept / (1 + beyond[:, None]), _TAILS[0], axis=0).tolist()
        high = np.percentile(kept, _TAILS[1], axis=0).tolist()
        contributors = tuple(_interval(*bounds) for bounds in zip(low, high, shares, strict=True))
        rest = np.percentile(left, _TAILS).tolist()
        return Intervals(contributors, _interval(rest[0] * recall, rest[1], unattributed))

    def _distances(self, distances: Sequence[int], cut: Sequence[int]) -> Values:
        """Return (B, K) distances that each replicate counts, those after the cut last."""
        plain = np.array([*distances, *cut], dtype=np.float64)
        return np.stack(
            [
                plain
                if replicate.background is None
                else replicate.background.approximate(plain, replicate.background.of(distances))
                for replicate in self.replicates
            ]
        )

    def _weights(self, distances: Values, contributors: int) -> Values:
        """Return (B, K) weights by each replicate; see `weights.approximate_similarity_weights`.

        distances: (B, K), of the contributors first. The nearest of them weighs 1, as for the residual. Where a policy
        counts parts, one after the cut may be nearer, and weigh more.
        """
        nearest = distances[:, :contributors].min(axis=1, keepdims=True)
        scales = np.array([[float(replicate.temperature) * MILLION] for replicate in self.replicates])
        growths = np.array([[float(replicate.growth)] for replicate in self.replicates])
        plain = (nearest - distances) / scales
        # Both branches of a `where` are computed: without growth, any divisor does.
        safe = np.where(growths > 0, growths, 1.0)
        grown = np.log((scales + safe * nearest) / (scales + safe * distances)) / safe
        weights: Values = np.exp(np.minimum(np.where(growths > 0, grown, plain), _MAX_EXPONENT))
        return weights

    def _residual_weights(self, distances: Values, totals: Values) -> Values:
        """Return (B,) weights of the residual, by each replicate. distances: (B, K), of the contributors."""
        return np.array(
            [
                0.0
                if replicate.residual is None
                else replicate.residual.approximate_weight(
                    row, float(replicate.temperature), float(replicate.growth), total
                )
                for replicate, row, total in zip(
                    self.replicates, np.rint(distances).astype(np.int64).tolist(), totals.tolist(), strict=True
                )
            ]
        )


def _interval(low: float, high: float, share: float) -> Interval:
    # Outwards to the next millionth, so that rounding never leaves the share outside.
    floor = math.floor(min(low, share) * MILLION)
    ceiling = math.ceil(max(high, share) * MILLION)
    return max(floor, 0), min(ceiling, MILLION)


def read_uncertainty(value: Any, k: int, reference: str) -> Uncertainty:
    """Parse a policy's `uncertainty` table, from its file or from evidence. Raises InvalidPolicy."""
    if not isinstance(value, Mapping):
        raise InvalidPolicy(f"policy {reference} has an `uncertainty` that is no table")
    hold_above = _hold_above(value["hold_above"], reference) if "hold_above" in value else None
    settings = set(value) - {"hold_above"}
    if settings == {"count", "sha256"}:
        count, sha256 = value["count"], value["sha256"]
        whole = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_REPLICATES
        if whole and is_sha256(sha256):
            return Uncertainty(count, sha256, hold_above)
    if settings == {"replicates"}:
        replicates = _replicates(value["replicates"], k, reference)
        return Uncertainty(len(replicates), _digest(replicates), hold_above, replicates)
    raise InvalidPolicy(
        f"policy {reference} has an `uncertainty` without `replicates`: fit it by `gmvaluator calibrate`"
    )


def _replicates(value: Any, k: int, reference: str) -> tuple[Replicate, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_REPLICATES:
        raise InvalidPolicy(f"policy {reference} needs 2 to {MAX_REPLICATES:,} uncertainty.replicates")
    return tuple(_replicate(row, k, f"{reference}: replicate {number}") for number, row in enumerate(value, start=1))


def _replicate(value: Any, k: int, where: str) -> Replicate:
    known = {"temperature", "temperature_growth", "residual", "parts", "background"}
    if not isinstance(value, Mapping) or not {"temperature"} <= set(value) <= known:
        raise InvalidPolicy(f"policy {where} needs a temperature, and a residual if the policy has one")
    residual = read_residual(value["residual"], k, where) if "residual" in value else None
    parts = read_parts(value["parts"], where) if "parts" in value else None
    background = read_background(value["background"], k, where) if "background" in value else None
    return Replicate(read_temperature(value, where), read_growth(value, where), residual, parts, background)


def _digest(replicates: Sequence[Replicate]) -> str:
    plain = [replicate.parameters() for replicate in replicates]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _hold_above(text: Any, reference: str) -> int:
    width = read_decimal(text, "uncertainty.hold_above", reference)
    if not 0 <= width <= 1:
        raise InvalidPolicy(f"policy {reference} holds back above {width}: give a width from 0 to 1")
    return int(width * MILLION)
