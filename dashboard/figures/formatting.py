"""Formats of numbers and times on all pages."""

from __future__ import annotations

from datetime import datetime

from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.weights import MILLION, credits_text

WHAT_A_CREDIT_MEANS = (
    "A credit is evidence that a generated image resembles a work, measured by two networks. "
    "It is not proof that the work caused the image."
)


def amount_text(micros: int) -> str:
    """Format micro-credits as credits: "1,234.567890"."""
    text = credits_text(micros)
    sign, digits = ("\N{MINUS SIGN}", text[1:]) if text.startswith("-") else ("", text)
    whole, _, part = digits.partition(".")
    return f"{sign}{int(whole):,}.{part}"


def percent(part: int | float, whole: int | float) -> str:
    """Format a part of a whole: "63.2 %", or a dash if the whole is 0."""
    return f"{100 * part / whole:.1f}\N{NARROW NO-BREAK SPACE}%" if whole else "–"


def share_text(share: float) -> str:
    """Format a share in [0, 1]: "63.21 %", and "< 0.01 %" for one that would round to 0."""
    if 0 < share < 0.0001:
        return "<\N{NARROW NO-BREAK SPACE}0.01\N{NARROW NO-BREAK SPACE}%"
    return f"{share:.2%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")


def millionths(value: int) -> str:
    """Format millionths as a decimal: "0.309700"."""
    return f"{value / MILLION:.6f}"


def instant(text: str | datetime) -> str:
    """Format a time, or the ledger's text of one: "24 Nov 2026, 21:03:47 UTC"."""
    moment = from_utc_text(text) if isinstance(text, str) else text
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"


def moment_text(text: str) -> str:
    """Format the ledger's text of a time without its year, for lists of recent times: "24 Nov, 21:03:47 UTC"."""
    moment = from_utc_text(text)
    return f"{moment.day} {moment:%b, %H:%M:%S} UTC"


def short_hash(text: str) -> str:
    """Return the first twelve digits of a hash."""
    return f"{text[:12]}…" if len(text) > 13 else text
