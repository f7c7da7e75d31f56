"""The collection that a command works on, and how to open it."""

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

PointFilter = Callable[[Sequence[Point]], Sequence[Point]]
"""Returns those of some points that a rebuilt collection keeps."""


@dataclass(frozen=True, slots=True)
class Target:
    """A collection of the index in a data folder or at a Qdrant server.

    index_url: of the server; empty for the embedded engine. quantisation, settings: used when the collection is
    created. database_url: of the catalogue; empty for SQLite in the data folder.
    """

    data: Path
    index_url: str
    collection: str
    quantisation: str = DEFAULT_QUANTISATION
    database_url: str = field(default="", repr=False)
    settings: IndexSettings = DEFAULT_SETTINGS

    @property
    def location(self) -> str | Path:
        """The server's URL, or the folder of the embedded engine."""
        return index_location(self.data, self.index_url)

    @property
    def api_key(self) -> str | None:
        """The server's API key from the environment, or None."""
        return qdrant_api_key()

    @contextmanager
    def open(self) -> Iterator[VectorStore]:
        """Open the collection, which need not exist yet."""
        # Imported here, as the client of the index takes a second to load that --help need not cost.
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
        """Open another collection of the same index."""
        with replace(self, collection=collection).open() as store:
            yield store

    def collections(self) -> list[str]:
        """Return the names of the index's collections; none if there is no index yet."""
        from gmvaluator.index.opening import list_collections

        return list_collections(self.location, api_key=self.api_key) if self.exists else []

    def rebuild(
        self, collection: str, keep: PointFilter, quantisation: str | None = None, settings: IndexSettings | None = None
    ) -> None:
        """Replace a collection by a fresh copy of the points kept; see `gmvaluator.index.rebuild.rebuild`."""
        from gmvaluator.index.location import open_access
        from gmvaluator.index.rebuild import rebuild

        rebuild(open_access(self.location, self.api_key), collection, quantisation, settings, keep)

    @property
    def exists(self) -> bool:
        """Whether there is an index; a server is assumed to have one."""
        return bool(self.index_url) or (self.data / "index").is_dir()

    @contextmanager
    def open_existing(self) -> Iterator[VectorStore]:
        """Open the collection. Raises MissingIndex rather than create an empty index."""
        if not self.exists:
            raise MissingIndex(
                f"there is no index in {self.data}: make one with `gmvaluator index add SOURCE --data {self.data}`"
            )
        with self.open() as store:
            yield store
