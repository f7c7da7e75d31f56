"""Micro-credits as people read them."""

from __future__ import annotations

from gmvaluator.valuation import MICROS_PER_CREDIT


def credits_text(micros: int) -> str:
    """Micro-credits as credits with all six decimals: 19876 is "0.019876"."""
    whole, part = divmod(abs(micros), MICROS_PER_CREDIT)
    return f"{'-' if micros < 0 else ''}{whole}.{part:06d}"
