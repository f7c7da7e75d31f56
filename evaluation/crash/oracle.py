"""What the ledger has to say, worked out in the plainest way and without the product's code: fractions all through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

_DIGITS = Context(prec=60)
_CONTRIBUTORS = 50

Amounts = dict[tuple[str, str | None], int]
"""Micro-credits by account and work."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A training image near a generated one: distance in millionths, rights in parts per million by account."""

    work: str
    distance: int
    rights: Mapping[str, int]


@lru_cache(maxsize=100_000)
def _nearness(distance: int) -> Fraction:
    return Fraction(_DIGITS.exp(_DIGITS.divide(Decimal(-distance), Decimal(1_000_000))))


def dealt(amount: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """`amount` in whole parts: what each is due, rounded down; what is left goes to the largest remainders."""
    whole = sum(weights.values())
    due = {name: amount * weight / whole for name, weight in weights.items()}
    parts = {name: int(quota) for name, quota in due.items()}
    neediest = sorted(due, key=lambda name: (parts[name] - due[name], name))
    for name in neediest[: amount - sum(parts.values())]:
        parts[name] += 1
    return parts


def credits_of(quality: int, candidates: Sequence[Candidate]) -> Amounts:
    """What one generated image pays, by `paper@1`: exp(-distance) of the 50 nearest, times quality."""
    if not candidates:
        return {("unattributed", None): quality, ("issuance", None): -quality} if quality else {}
    nearest = sorted(candidates, key=lambda one: (one.distance, one.work))[:_CONTRIBUTORS]
    amounts: Amounts = {("issuance", None): -quality}
    credit = dealt(quality, {one.work: _nearness(one.distance) for one in nearest})
    for one in nearest:
        split = dealt(credit[one.work], {account: Fraction(share) for account, share in one.rights.items()})
        for account, part in split.items():
            amounts[account, one.work] = part
    return {place: amount for place, amount in amounts.items() if amount}


def totalled(parts: Sequence[Amounts]) -> dict[str, int]:
    """Sums by account, zeros left out."""
    sums: dict[str, int] = {}
    for amounts in parts:
        for (account, _), amount in amounts.items():
            sums[account] = sums.get(account, 0) + amount
    return {account: amount for account, amount in sums.items() if amount}
