"""Near-duplicates of works, from the index, which is the only store of whole groups.

The index is opened by the first query and stays open until shutdown: most dashboards never load its client.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.catalogue.store import Catalogue
from gmvaluator.errors import GmvaluatorError
from gmvaluator.ids import TrainingImageId

if TYPE_CHECKING:
    from gmvaluator.index.store import QdrantStore

MAX_MEMBERS = 60
"""Maximum number of near-duplicates shown on the page of a work."""
RETRY_S = 30.0
"""Seconds before an index that could not be reached is queried again, so that not every page waits for it."""


class DuplicateGroup(NamedTuple):
    """The near-duplicates of a work. known: False if it was not checked yet or the index cannot be queried."""

    members: list[TrainingImageId]
    known: bool


UNKNOWN = DuplicateGroup([], False)


class NearDuplicates:
    """The groups of near-duplicates in the index of a data folder or at a Qdrant server. Thread-safe."""

    def __init__(self, index: str | Path, catalogue: Catalogue | None) -> None:
        self._index = index
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._stores: list[QdrantStore] = []
        self._failed_at = -RETRY_S

    def lookup(self, work: TrainingImageId) -> DuplicateGroup:
        """Return the near-duplicates of a work, from the first collection that knows them."""
        if time.monotonic() - self._failed_at < RETRY_S:
            return UNKNOWN
        try:
            for store in self._opened():
                # One more than is shown, so that the page can say that there are more.
                members = store.group_members(work, MAX_MEMBERS + 1)
                if members is not None:
                    return DuplicateGroup([member for member in members if member != work], True)
        except GmvaluatorError:
            # The page says that the index cannot be queried, and shows what the ledger knows.
            self._failed_at = time.monotonic()
        return UNKNOWN

    def close(self) -> None:
        """Close the index; an embedded engine stops with its last user."""
        with self._lock:
            for store in self._stores:
                store.close()
            self._stores.clear()

    def _opened(self) -> list[QdrantStore]:
        # Pages run in threads: one of them opens the index, and the others wait for it.
        with self._lock:
            exists = isinstance(self._index, str) or self._index.is_dir()
            if not self._stores and exists and self._catalogue is not None:
                # The index's client takes some 60 MB of memory.
                from gmvaluator.index.opening import open_store

                names = {generator.collection for generator in self._catalogue.generators()}
                key = qdrant_api_key()
                self._stores.extend(open_store(self._index, name, api_key=key) for name in sorted(names))
            return list(self._stores)
