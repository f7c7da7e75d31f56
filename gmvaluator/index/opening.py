"""Functions that open an index for writing or searching, on a server or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gmvaluator.index.collections import served_collections
from gmvaluator.index.location import open_access
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import DEFAULT_COLLECTION, DEFAULT_QUANTISATION, DEFAULT_SETTINGS, IndexSettings
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.store import QdrantStore


def open_store(
    location: str | Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    api_key: str | None = None,
    quantisation: str = DEFAULT_QUANTISATION,
    settings: IndexSettings = DEFAULT_SETTINGS,
) -> QdrantStore:
    """Open `collection` at `location`, a Qdrant server's address or a folder, for writing.

    A folder's embedded engine runs until its last user closes it. quantisation (one of `quantisation.CHOICES`),
    settings: used if the collection is created. Raises InvalidInput, IndexUnavailable.
    """
    return QdrantStore(open_access(location, api_key), collection, quantisation, settings)


def list_collections(location: str | Path, *, api_key: str | None = None) -> list[str]:
    """Return the names of the collections of training images served at `location`, in ascending order."""
    connection = IndexConnection(open_access(location, api_key), "all collections")
    try:
        return served_collections(connection)
    finally:
        connection.close()


def open_search(
    location: str | Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    api_key: str | None = None,
    payload_keys: Sequence[str] = (),
) -> QdrantSearch:
    """Open `collection` at `location` for searching from one event loop.

    payload_keys: payload entries to return with each candidate. Raises InvalidInput, IndexUnavailable.
    """
    return QdrantSearch(open_access(location, api_key), collection, payload_keys)
