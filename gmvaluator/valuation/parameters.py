"""Parsing of the settings that policies, their residuals and their replicates share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from gmvaluator.errors import InvalidPolicy

_MAX_SIZE = 10_000
_MAX_GROWTH = 10
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_decimal(text: Any, setting: str, reference: str) -> Decimal:
    """Parse a decimal string of at most 10,000 in absolute value, with at most six decimals. Raises InvalidPolicy."""
    value = _decimal(text)
    if not value.is_finite() or abs(value) > _MAX_SIZE or value != round(value, 6):
        raise InvalidPolicy(
            f'policy {reference} has {setting} = {text!r}: give a decimal string such as "0.25", with six decimals '
            f"at most and no more than {_MAX_SIZE:,} in size"
        )
    return value


def read_temperature(value: Mapping[str, Any], reference: str) -> Decimal:
    """Return setting `temperature`, from 0.0001 to 1000. Raises InvalidPolicy."""
    text = value.get("temperature")
    # Any number of decimals: evidence that was posted with more than six has to be replayed.
    temperature = _decimal(text)
    if not temperature.is_finite() or not Decimal("0.0001") <= temperature <= 1000:
        raise InvalidPolicy(
            f'policy {reference} has temperature = {text!r}: give a decimal string from "0.0001" to "1000"'
        )
    return temperature


def read_growth(value: Mapping[str, Any], reference: str) -> Decimal:
    """Return setting `temperature_growth`, from 0 to 10, 0 if absent. Raises InvalidPolicy."""
    growth = read_decimal(value.get("temperature_growth", "0"), "temperature_growth", reference)
    if not 0 <= growth <= _MAX_GROWTH:
        raise InvalidPolicy(f"policy {reference} has temperature_growth = {growth}: give 0 to {_MAX_GROWTH}")
    return growth


def is_sha256(value: Any) -> bool:
    """Return True if `value` is a string of 64 lower-case hex digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _decimal(text: Any) -> Decimal:
    """Parse a string; NaN for anything else, so that a TOML float, which is not exact, is refused."""
    try:
        return Decimal(text) if isinstance(text, str) else Decimal("NaN")
    except InvalidOperation:
        return Decimal("NaN")
