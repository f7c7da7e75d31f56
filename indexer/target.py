"""Which collection of which index a command means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.errors import MissingIndex
from gmvaluator.index.schema import DEFAULT_QUANTISATION, DEFAULT_SETTINGS, IndexSettings
from gmvaluator.ports import Point, VectorStore
from gmvaluator.storage.data_folder import index_location

Kept = Callable[[Sequence[Point]], Sequence[Point]]
"""Those of some points that may be in a fresh copy."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which collection of which index is meant; quantisation and settings count where the collection is made."""

    data: Path
    index_url: str
    collection: str
    quantisation: str = DEFAULT_QUANTISATION
    database_url: str = field(default="", repr=False)
    settings: IndexSettings = DEFAULT_SETTINGS

    @property
    def location(self) -> str | Path:
        return index_location(self.data, self.index_url)

    @property
    def api_key(self) -> str | None:
        return qdrant_api_key()

    @contextmanager
    def open(self) -> Iterator[VectorStore]:
        from gmvaluator.index.opening import open_store

        store = open_store(
            self.location,
            self.collection,
            api_key=self.api_key,
            quantisation=self.quantisation,
            settings=self.settings,
        )
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def open_named(self, collection: str) -> Iterator[VectorStore]:
        """Another collection of the same index."""
        with replace(self, collection=collection).open() as store:
            yield store

    def collections(self) -> list[str]:
        """Names of the index's collections; none where there is no index yet."""
        from gmvaluator.index.opening import list_collections

        return list_collections(self.location, api_key=self.api_key) if self.exists else []

    def rebuild(
        self, collection: str, kept: Kept, quantisation: str | None = None, settings: IndexSettings | None = None
    ) -> None:
        """Serve a collection from a fresh copy of its points; see `gmvaluator.index.rebuild.rebuild`."""
        from gmvaluator.index.location import open_access
        from gmvaluator.index.rebuild import rebuild

        rebuild(open_access(self.location, self.api_key), collection, quantisation, settings, kept)

    @property
    def exists(self) -> bool:
        """Whether an index is there; a server's always is."""
        return bool(self.index_url) or (self.data / "index").is_dir()

    @contextmanager
    def open_existing(self) -> Iterator[VectorStore]:
        """Raises MissingIndex rather than make an empty index."""
        if not self.exists:
            raise MissingIndex(
                f"there is no index in {self.data}: make one with `gmvaluator index add SOURCE --data {self.data}`"
            )
        with self.open() as store:
            yield store
