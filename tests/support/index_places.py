"""Indexes that a suite runs on: the embedded engine in a folder of its own, and a Qdrant server where there is one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gmvaluator.index.collections import aliases, generations
from gmvaluator.index.location import open_access
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import DEFAULT_QUANTISATION
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.store import QdrantStore
from tests.support.qdrant_server import QdrantServer

SERVER = pytest.param("server", marks=pytest.mark.server)
EMBEDDED_AND_SERVER = ("embedded", SERVER)
"""Parameters of a fixture that makes its place by `index_place`."""


@dataclass(frozen=True)
class IndexPlace:
    """A collection, which may not exist yet, and where it is."""

    location: str | Path
    collection: str
    api_key: str | None = None

    def open_store(self, quantisation: str = DEFAULT_QUANTISATION) -> QdrantStore:
        return open_store(self.location, self.collection, api_key=self.api_key, quantisation=quantisation)

    def open_search(self) -> QdrantSearch:
        return open_search(self.location, self.collection, api_key=self.api_key)

    def clear(self) -> None:
        """Delete the collections behind the name."""
        connection = IndexConnection(open_access(self.location, self.api_key), "the tests' collections")
        try:
            serving = aliases(connection).get(self.collection)
            for name in {*generations(connection, self.collection), *filter(None, [serving])}:
                connection.call(lambda client, name=name: client.delete_collection(name))  # type: ignore[misc]
        finally:
            connection.close()


def new_name() -> str:
    """Return the name of a collection that no other test run uses."""
    return f"test-{uuid.uuid4()}"


@contextmanager
def index_place(request: pytest.FixtureRequest, collection: str, folder: Path | None = None) -> Iterator[IndexPlace]:
    """The place of a new collection in the index that a fixture's parameter names.

    folder: of the embedded engine; a new one by default.
    """
    if request.param == "embedded":
        folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        yield IndexPlace(folder or folders.mktemp("index"), collection)
        return
    server: QdrantServer = request.getfixturevalue("qdrant_server")
    place = IndexPlace(server.url, collection, server.api_key or None)
    try:
        yield place
    finally:
        place.clear()
