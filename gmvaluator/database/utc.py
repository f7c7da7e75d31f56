"""Instants as the databases keep them: UTC text of fixed width, which sorts as time does on every engine."""

from __future__ import annotations

from datetime import UTC, datetime

from gmvaluator.errors import InvalidInput

BEGINNING = "0001-01-01T00:00:00.000000Z"
"""Before every instant: "since ever"."""

END = "9999-12-31T23:59:59.999999Z"
"""After every instant: "until further notice"."""


def utc_text(instant: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`, 27 characters. Raises InvalidInput if `instant` has no time zone."""
    if instant.tzinfo is None:
        raise InvalidInput(f"{instant.isoformat()} has no time zone: give one, such as +00:00")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def from_utc_text(text: str) -> datetime:
    """Inverse of `utc_text`."""
    return datetime.fromisoformat(text)
