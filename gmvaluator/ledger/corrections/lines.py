"""Amounts by account and work, as plain data in evidence and as entries."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.records import Entry

Place = tuple[str, TrainingImageId | None]
"""An account, and the work whose credit it is."""

Amounts = Mapping[Place, int]
"""Micro-credits by place."""

PlainLine = Sequence[Any]
"""[account, training image id or null, amount]: a line as evidence has it."""


def plain_lines(amounts: Amounts) -> list[list[Any]]:
    """Amounts other than zero, by account and work."""
    return [
        [account, None if work is None else str(work), amounts[account, work]]
        for account, work in sorted(amounts, key=_order)
        if amounts[account, work] != 0
    ]


def amounts_of(lines: Iterable[PlainLine]) -> dict[Place, int]:
    """Inverse of `plain_lines`; a place that repeats adds up."""
    amounts: dict[Place, int] = {}
    for account, work, amount in lines:
        place = account, None if work is None else TrainingImageId(uuid.UUID(work))
        amounts[place] = amounts.get(place, 0) + amount
    return amounts


def entries_from(amounts: Amounts) -> tuple[Entry, ...]:
    """Entries of these amounts, by account and work; zeros are left out."""
    return tuple(
        Entry(account, work, amounts[account, work])
        for account, work in sorted(amounts, key=_order)
        if amounts[account, work] != 0
    )


def added(*parts: Amounts) -> dict[Place, int]:
    """Sum by place."""
    total: dict[Place, int] = {}
    for part in parts:
        for place, amount in part.items():
            total[place] = total.get(place, 0) + amount
    return total


def negated(amounts: Amounts) -> dict[Place, int]:
    """Each amount with its sign turned."""
    return {place: -amount for place, amount in amounts.items()}


def _order(place: Place) -> tuple[str, str]:
    return place[0], "" if place[1] is None else str(place[1])
