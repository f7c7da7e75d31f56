"""Which works are near-copies of one another: by the index, which alone knows whole groups.

The index is reached when a page first asks, and held until the dashboard ends: most dashboards never load its client.
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
"""Near-copies shown of a work."""
RETRY_S = 30.0
"""Pages do not wait for an index again that could not be reached so long ago."""


class CopyGroup(NamedTuple):
    """Near-copies, the work itself left out. known: False where nobody looked, or nobody could be asked."""

    members: list[TrainingImageId]
    known: bool


UNKNOWN = CopyGroup([], False)


class NearDuplicates:
    """Asks the index of a data folder, or a Qdrant server. Thread-safe; `close` lets go of it."""

    def __init__(self, index: str | Path, catalogue: Catalogue | None) -> None:
        self._index = index
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._stores: list[QdrantStore] = []
        self._failed_at = -RETRY_S

    def of(self, work: TrainingImageId) -> CopyGroup:
        """The group of a work, in whichever collection it is."""
        if time.monotonic() - self._failed_at < RETRY_S:
            return UNKNOWN
        try:
            for store in self._opened():
                found = store.group_members(work, MAX_MEMBERS + 1)
                if found is not None:
                    return CopyGroup([one for one in found if one != work], True)
        except GmvaluatorError:
            # The page says that the index could not be asked, and shows what the ledger knows.
            self._failed_at = time.monotonic()
        return UNKNOWN

    def close(self) -> None:
        """Let go of the index; an embedded engine ends with its last user."""
        with self._lock:
            for store in self._stores:
                store.close()
            self._stores.clear()

    def _opened(self) -> list[QdrantStore]:
        with self._lock:
            there = isinstance(self._index, str) or self._index.is_dir()
            if not self._stores and there and self._catalogue is not None:
                # The index's client takes some 60 MB: a dashboard of a ledger alone never loads it.
                from gmvaluator.index.opening import open_store

                names = {one.collection for one in self._catalogue.generators()}
                key = qdrant_api_key()
                self._stores.extend(open_store(self._index, name, api_key=key) for name in sorted(names))
            return list(self._stores)
