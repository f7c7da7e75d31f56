"""Posting decisions: the ledger's own clock, and refusals as errors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gmvaluator.ledger.answers import Refused
from gmvaluator.ledger.decisions import NewDecision
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.writer import MAX_BATCH

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


def decide(book: Ledger, new: Sequence[NewDecision]) -> list[StoredPosting]:
    """Post decisions, or find those that were posted before; durable when this returns.

    Raises what refused the first that was refused; those of its batch that were not refused are posted.
    """
    stored: list[StoredPosting] = []
    for start in range(0, len(new), MAX_BATCH):
        for outcome in book.post(new[start : start + MAX_BATCH]):
            if isinstance(outcome, Refused):
                raise outcome.error
            stored.append(outcome.posting)
    return stored


def decision_time() -> datetime:
    """The clock of decisions."""
    return datetime.now(UTC)
