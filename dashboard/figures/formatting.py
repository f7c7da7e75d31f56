"""How numbers and times read on every page."""

from __future__ import annotations

from datetime import datetime

from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.weights import MILLION, credits_text

WHAT_A_CREDIT_MEANS = (
    "A credit is evidence that a generated image resembles a work, measured by two networks. "
    "It is not proof that the work caused the image."
)


def amount_text(micros: int) -> str:
    """Micro-credits as credits: "1,234.567890"."""
    text = credits_text(micros)
    sign, digits = ("\N{MINUS SIGN}", text[1:]) if text.startswith("-") else ("", text)
    whole, _, part = digits.partition(".")
    return f"{sign}{int(whole):,}.{part}"


def percent(part: int | float, whole: int | float) -> str:
    """ "63.2 %"; a dash of nothing."""
    return f"{100 * part / whole:.1f}\N{NARROW NO-BREAK SPACE}%" if whole else "–"


def share_text(share: float) -> str:
    """A share in [0, 1]: "63.21 %", and "< 0.01 %" where rounding would say nothing."""
    if 0 < share < 0.0001:
        return "<\N{NARROW NO-BREAK SPACE}0.01\N{NARROW NO-BREAK SPACE}%"
    return f"{share:.2%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")


def millionths(value: int) -> str:
    """ "0.309700" """
    return f"{value / MILLION:.6f}"


def instant(text: str | datetime) -> str:
    """ "24 Nov 2026, 21:03:47 UTC"; the ledger's text or a time."""
    moment = from_utc_text(text) if isinstance(text, str) else text
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"


def moment_text(text: str) -> str:
    """ "24 Nov, 21:03:47 UTC", for lists where space is short and the year is this one's."""
    moment = from_utc_text(text)
    return f"{moment.day} {moment:%b, %H:%M:%S} UTC"


def short_hash(text: str) -> str:
    """The first twelve digits."""
    return f"{text[:12]}…" if len(text) > 13 else text
