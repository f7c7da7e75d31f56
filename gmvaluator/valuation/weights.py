"""Equations 4-6 of the paper: from distances and quality to shares, and from shares to integer micro-credits.

For a generated image x̂_j with contributors P_j (arXiv 2304.10701, section 4):

    V(x_i, x̂_j) = q_j · exp(-d_ij) / Σ_{l ∈ P_j} exp(-d_lj)    for x_i ∈ P_j, else 0      (4, 5)
    φ_i          = Σ_j V(x_i, x̂_j)                                                         (6)

Everything after the distances is integer arithmetic on weights of 10^-30 precision, computed by correctly
rounded decimal exponentials: the result does not depend on the order of contributors, the machine or the
C library, so credits can be recomputed from the evidence to the last micro-credit, years later.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

from gmvaluator.errors import InvalidValuation

MICROS_PER_CREDIT = 1_000_000
"""Micro-credits in one credit, which one generated image of quality 1 issues."""

MILLION = 1_000_000
"""Scale of distances and quality, which are kept in millionths, so that what is stored is what was valued."""

MAX_DISTANCE = 2
"""Largest perceptual distance: it is 1 - cosine, in [0, 2]."""

WEIGHT_SCALE = 10**30
"""The weight that counts as 1: weights are integers of 10^-30."""

MAX_LOGIT = 60
"""Largest magnitude of a logit: logits beyond ±60 count as ±60."""

# A context of its own: precision and rounding of the thread's context must not change a credit.
_CONTEXT = decimal.Context(prec=36, rounding=decimal.ROUND_HALF_EVEN, Emin=-999999, Emax=999999)


def distance_millionths(perceptual_distance: float) -> int:
    """Round a distance in [0, 2], lower is nearer, to millionths. Rounding noise below 0 becomes 0.

    Raises InvalidValuation if it is not finite or out of range.
    """
    return _millionths(perceptual_distance, MAX_DISTANCE, "distance")


def quality_millionths(quality: float) -> int:
    """Round a quality in [0, 1], higher is better, to millionths. Raises InvalidValuation as above."""
    return _millionths(quality, 1, "quality")


def _millionths(value: float, high: int, name: str) -> int:
    # Float32 models give distances such as -3e-8 or 1.0000001: rounding noise, not a fault of the model.
    tolerance = 1e-5
    if not math.isfinite(value) or not -tolerance <= value <= high + tolerance:
        raise InvalidValuation(f"a {name} of {value} is outside 0..{high}: check the model that made it")
    return min(max(round(value * MILLION), 0), high * MILLION)


def similarity_weights(
    distances: Sequence[int], temperature: Decimal = Decimal(1), growth: Decimal = Decimal(0)
) -> list[int]:
    """Return integer weights proportional to exp(-d_i / τ), equation 5's numerators; τ = 1 is the paper.

    distances: K values in millionths. growth: by how much τ grows for each unit of distance, g; above 0 the weights
    are proportional to (1 + g d_i / τ)^(-1/g), whose limit at 0 is exp(-d_i / τ): a difference counts for more among
    the near than among the far. The nearest weighs 10^30, so nothing underflows before it is 10^-30 of the nearest.
    Raises InvalidValuation unless 0 < τ and 0 <= g.
    """
    if not distances:
        return []
    if any(not 0 <= distance <= MAX_DISTANCE * MILLION for distance in distances):
        raise InvalidValuation(f"distances must lie in 0..{MAX_DISTANCE} million millionths")
    if not temperature.is_finite() or temperature <= 0:
        raise InvalidValuation(f"a temperature of {temperature} cannot be used: it must be above 0")
    if not growth.is_finite() or growth < 0:
        raise InvalidValuation(f"a temperature's growth of {growth} cannot be used: it must be 0 or above")
    # A common factor cancels in the shares; this one keeps the largest weight at 10^30 whatever the distances.
    nearest = min(distances)
    return [_exponential(_exponent(distance, nearest, temperature, growth)) for distance in distances]


def approximate_similarity_weights(
    distances: Sequence[int], temperature: float = 1.0, growth: float = 0.0
) -> list[float]:
    """Compute `similarity_weights` in floating point, the nearest weighing 1: fifty times as fast, not for money."""
    nearest = min(distances, default=0)
    if growth:
        scale = MILLION * temperature
        return [((scale + growth * nearest) / (scale + growth * distance)) ** (1 / growth) for distance in distances]
    return [math.exp((nearest - distance) / (MILLION * temperature)) for distance in distances]


def _exponent(distance: int, reference: int, temperature: Decimal, growth: Decimal) -> Decimal:
    """Return minus the integral of 1 / (τ + g d) from the reference distance to this one, both in millionths."""
    if not growth:
        return _CONTEXT.divide(Decimal(reference - distance), _CONTEXT.multiply(temperature, Decimal(MILLION)))
    near, far = (_log_temperature(point, temperature, growth) for point in (reference, distance))
    return _CONTEXT.divide(_CONTEXT.subtract(near, far), growth)


# Cached: all distances of an image are compared with one, and logarithms take most of the time of a valuation.
@lru_cache(maxsize=1_024)
def _log_temperature(distance: int, temperature: Decimal, growth: Decimal) -> Decimal:
    """Return ln(10^6 (τ + g d)) at a distance in millionths."""
    return _CONTEXT.ln(_CONTEXT.fma(growth, Decimal(distance), _CONTEXT.multiply(temperature, Decimal(MILLION))))


def _exponential(exponent: Decimal) -> int:
    return int(_CONTEXT.multiply(_CONTEXT.exp(exponent), Decimal(WEIGHT_SCALE)))


def relative_weight(distance: int, reference: int, temperature: Decimal, growth: Decimal) -> int:
    """Return the weight at `distance` as a multiple of that at `reference`, both in millionths, in units of 10^-30.

    Multiples beyond e^60 count as e^60.
    """
    return _exponential(min(_exponent(distance, reference, temperature, growth), Decimal(MAX_LOGIT)))


def exponential_weight(bias: Decimal, slope: Decimal, count: int) -> int:
    """Return exp(bias + slope · ln(count)) in units of 10^-30; count: 1 or more. Logits beyond ±60 count as ±60."""
    logit = _CONTEXT.fma(slope, _CONTEXT.ln(Decimal(count)), bias)
    return _exponential(max(min(logit, Decimal(MAX_LOGIT)), Decimal(-MAX_LOGIT)))


def odds_weight(total: int, logit: Decimal) -> int:
    """Return the integer weight w with w / (w + total) = 1 / (1 + exp(-logit)); logits beyond ±60 count as ±60.

    total: the sum of the other weights, above 0.
    """
    odds = _CONTEXT.exp(_CONTEXT.plus(max(min(logit, Decimal(MAX_LOGIT)), Decimal(-MAX_LOGIT))))
    return int(_CONTEXT.multiply(odds, Decimal(total)))


def issued_micros(quality: int) -> int:
    """Return the micro-credits that one generated image issues: one credit at quality 1 (equation 4).

    quality: q_j in millionths.
    """
    if not 0 <= quality <= MILLION:
        raise InvalidValuation(f"a quality of {quality} millionths is outside 0..{MILLION}")
    return quality * MICROS_PER_CREDIT // MILLION


def shares(weights: Sequence[int]) -> list[float]:
    """Return weights as fractions of their sum, for people to read; `divide` computes amounts."""
    total = sum(weights)
    return [weight / total for weight in weights]


def divide(amount: int, weights: Sequence[int], names: Sequence[str]) -> list[int]:
    """Divide `amount` into integer parts proportional to `weights`, by largest remainder.

    Each part is its exact quota rounded down or up; parts sum to `amount`; equal remainders are settled by
    `names` (ascending), so the result follows the names and not the order. Raises InvalidValuation if amount or
    a weight is negative, if all weights are zero, or if names repeat.
    """
    total = sum(weights)
    if amount < 0 or total <= 0 or min(weights) < 0:
        raise InvalidValuation(f"{amount} cannot be divided by weights that sum to {total}")
    if len(weights) != len(names) or len(set(names)) != len(names):
        raise InvalidValuation("each weight needs a name of its own")
    parts = [amount * weight // total for weight in weights]
    remainders = [amount * weight % total for weight in weights]
    by_remainder = sorted(range(len(parts)), key=lambda i: (-remainders[i], names[i]))
    for i in by_remainder[: amount - sum(parts)]:
        parts[i] += 1
    return parts


def credits_text(micros: int) -> str:
    """Format micro-credits as credits with all six decimals: 19876 is "0.019876"."""
    whole, part = divmod(abs(micros), MICROS_PER_CREDIT)
    return f"{'-' if micros < 0 else ''}{whole}.{part:06d}"
