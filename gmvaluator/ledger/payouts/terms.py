"""Payment terms: the rate of a credit, the pool of money, and the balance from which an owner is paid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gmvaluator.errors import InvalidInput
from gmvaluator.valuation.weights import MICROS_PER_CREDIT, MILLION, divide

MAX_MINOR = 10**15
"""Largest amount in minor units, and largest threshold in micro-credits."""

MAX_MINOR_DIGITS = 4
_CURRENCY = re.compile(r"[A-Z]{3}")
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,12})?")


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms by which balances become money in one period.

    currency: ISO 4217. minor_digits: decimals of its minor unit (2 for cents). rate_micros: millionths of a minor unit
    for one credit; None divides the whole pool. pool_minor: most minor units to divide; None for no limit.
    threshold_micros: micro-credits; a balance below it is carried over.

    Raises InvalidInput for values out of range, or without rate and pool.
    """

    currency: str
    minor_digits: int
    rate_micros: int | None
    pool_minor: int | None
    threshold_micros: int

    def __post_init__(self) -> None:
        if not _CURRENCY.fullmatch(self.currency):
            raise InvalidInput(f"{self.currency[:10]!r} is no currency: give three capital letters, such as EUR")
        if self.rate_micros is None and self.pool_minor is None:
            raise InvalidInput("terms need a rate, a pool or both: give --rate or --pool")
        _check("minor digits", self.minor_digits, MAX_MINOR_DIGITS)
        _check("the rate", self.rate_micros, MAX_MINOR * MILLION)
        _check("the pool", self.pool_minor, MAX_MINOR)
        _check("the threshold", self.threshold_micros, MAX_MINOR)

    @classmethod
    def parse(cls, currency: str, minor_digits: int, rate: str | None, pool: str | None, threshold: str) -> Terms:
        """Parse terms as people write them: rate and pool in the currency, threshold in credits.

        Raises InvalidInput.
        """
        return cls(
            currency,
            minor_digits,
            None if rate is None else scaled_decimal(rate, minor_digits + 6, "the rate"),
            None if pool is None else scaled_decimal(pool, minor_digits, f"the pool in {currency}"),
            scaled_decimal(threshold, 6, "the threshold"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict, as stored in the evidence of a decision."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Terms:
        """Parse the result of `as_dict`."""
        return cls(**value)

    def payable(self, balances: Mapping[str, int]) -> dict[str, int]:
        """Return the minor units for each account whose balance reaches the threshold, by account.

        The amount to divide is min(pool, floor(sum of balances x rate)), or the one of both that is given. It is
        divided in proportion to the balances by largest remainder, so that the parts sum to it exactly.
        """
        due = {account: balance for account, balance in sorted(balances.items()) if self._reaches(balance)}
        total = sum(due.values())
        if total == 0:
            return {}
        amounts = [] if self.pool_minor is None else [self.pool_minor]
        if self.rate_micros is not None:
            amounts.append(total * self.rate_micros // (MICROS_PER_CREDIT * MILLION))
        return dict(zip(due, divide(min(amounts), list(due.values()), list(due)), strict=True))

    def _reaches(self, balance: int) -> bool:
        return balance > 0 and balance >= self.threshold_micros

    def money_text(self, minor: int) -> str:
        """Format minor units, such as 1234 as "12.34 EUR"."""
        sign, digits = "-" if minor < 0 else "", str(abs(minor)).rjust(self.minor_digits + 1, "0")
        whole = digits[: len(digits) - self.minor_digits]
        part = digits[len(digits) - self.minor_digits :]
        return f"{sign}{whole}{'.' + part if part else ''} {self.currency}"

    def rate_text(self) -> str:
        """Format the money for one credit with all its decimals, or "by the pool" without a rate."""
        if self.rate_micros is None:
            return "by the pool"
        decimals = MILLION * 10**self.minor_digits
        whole, part = divmod(self.rate_micros, decimals)
        return f"{whole}.{part:0{len(str(decimals)) - 1}d}".rstrip("0").rstrip(".") + f" {self.currency}"


def scaled_decimal(text: str, digits: int, what: str) -> int:
    """Parse a decimal number and return it times 10^digits, such as 1250 for "12.5" and 2 digits.

    what: name of the value in the error. Raises InvalidInput if `text` is no number, is negative, or has more decimals.
    """
    # Decimal alone would also accept signs, exponents, underscores and NaN, and round numbers of more than 28 digits.
    scaled = Decimal(text).scaleb(digits) if _DECIMAL.fullmatch(text) else None
    if scaled is None or scaled != scaled.to_integral_value():
        decimals = f"a decimal number with at most {digits} decimals" if digits else "a whole number"
        raise InvalidInput(f"{what} {text[:40]!r} is refused: give {decimals}")
    return int(scaled)


def _check(what: str, value: int | None, high: int) -> None:
    if value is not None and not 0 <= value <= high:
        raise InvalidInput(f"{what} of {value} is refused: give 0 to {high}")
