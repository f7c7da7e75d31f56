"""Check of all stored vectors and local features of a collection, for `gmvaluator index verify --deep`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdrant_client import models

from gmvaluator.errors import InvalidVector
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.checksums import CHECKSUM
from gmvaluator.index.opening import open_store
from gmvaluator.index.schema import DEFAULT_COLLECTION, KEY_LOCAL_FEATURES
from gmvaluator.index.stored_points import record_damage, record_id, stored_local_features
from gmvaluator.profile import ProfileIdentity


@dataclass(slots=True)
class DeepCheck:
    """The result.

    without_checksum: works of earlier releases, of which only the norms were compared with 1. without_local_features:
    all works where the profile has no local features. describes_works: whether the profile has them.
    """

    works: int = 0
    without_checksum: int = 0
    without_local_features: int = 0
    damaged: dict[TrainingImageId, str] = field(default_factory=dict)
    describes_works: bool = False

    @property
    def undescribed(self) -> int:
        """Works without the local features that the profile has for them: never verified in an image."""
        return self.without_local_features if self.describes_works else 0

    def add(self, record: models.Record, profile: ProfileIdentity) -> None:
        """Check a stored point and count it."""
        payload = record.payload or {}
        self.works += 1
        self.without_checksum += CHECKSUM not in payload
        self.without_local_features += KEY_LOCAL_FEATURES not in payload
        if reason := _damage(record, profile):
            self.damaged[record_id(record)] = reason

    def figures(self) -> dict[str, Any]:
        """Return the counts as figures of a report."""
        return {
            "works_checked": self.works,
            "works_without_checksum": self.without_checksum,
            "works_without_local_features": self.without_local_features,
            "works_damaged": len(self.damaged),
        }


def check_works(
    location: str | Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    api_key: str | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> DeepCheck:
    """Compare the vectors and local features of every work with their checksums.

    Reads the whole collection; `advance` is called with the works checked so far. Raises MissingIndex,
    IndexUnavailable, IndexFailed.
    """
    store = open_store(location, collection, api_key=api_key)
    try:
        profile = store.metadata().profile
        result = DeepCheck(describes_works=bool(profile.local_features))
        for record in store.records(with_vectors=True):
            result.add(record, profile)
            advance(result.works)
    finally:
        store.close()
    return result


def _damage(record: models.Record, profile: ProfileIdentity) -> str:
    """Return what is wrong with a stored point; empty if nothing is."""
    if reason := record_damage(record, profile):
        return reason
    try:
        stored_local_features(record.payload or {})
    except InvalidVector as error:
        return str(error)
    return ""
