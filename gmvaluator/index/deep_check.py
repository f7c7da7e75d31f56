"""Check of every stored vector of a collection, for `gmvaluator index verify --deep`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.checksums import CHECKSUM
from gmvaluator.index.opening import open_store
from gmvaluator.index.schema import DEFAULT_COLLECTION
from gmvaluator.index.stored_points import record_damage, record_id


@dataclass(slots=True)
class DeepCheck:
    """The result. without_checksum: works of earlier releases, of which only the norms were compared with 1."""

    works: int = 0
    without_checksum: int = 0
    damaged: dict[TrainingImageId, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return the counts as figures of a report."""
        return {
            "works_checked": self.works,
            "works_without_checksum": self.without_checksum,
            "works_damaged": len(self.damaged),
        }


def check_vectors(
    location: str | Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    api_key: str | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> DeepCheck:
    """Compare the stored vectors of every work with their checksum; `advance` is called with the works checked so far.

    Reads the whole collection. Raises MissingIndex, IndexUnavailable, IndexFailed.
    """
    store = open_store(location, collection, api_key=api_key)
    result = DeepCheck()
    try:
        profile = store.metadata().profile
        for record in store.records(with_vectors=True):
            result.works += 1
            result.without_checksum += CHECKSUM not in (record.payload or {})
            if reason := record_damage(record, profile):
                result.damaged[record_id(record)] = reason
            advance(result.works)
    finally:
        store.close()
    return result
