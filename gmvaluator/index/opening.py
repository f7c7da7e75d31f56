"""Open an index, wherever it is: the one place that programs need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gmvaluator.index.collections import served_collections
from gmvaluator.index.location import open_access
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import DEFAULT, DEFAULT_COLLECTION, DEFAULT_SETTINGS, IndexSettings
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.store import QdrantStore


def open_store(
    location: str | Path,
    collection: str = DEFAULT_COLLECTION,
    *,
    api_key: str | None = None,
    quantisation: str = DEFAULT,
    settings: IndexSettings = DEFAULT_SETTINGS,
) -> QdrantStore:
    """The writing side of `collection` at `location`, which is a Qdrant server's address or a folder.

    A folder's embedded engine runs until the last one who opened it closes. quantisation (one of
    `quantisation.CHOICES`), settings: of a collection that is yet to be made. Raises InvalidInput, IndexUnavailable.
    """
    return QdrantStore(open_access(location, api_key), collection, quantisation, settings)


def list_collections(location: str | Path, *, api_key: str | None = None) -> list[str]:
    """Names under which collections of training images are served at `location`, ascending."""
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
    """The reading side, likewise; used within one event loop. payload_keys: what candidates bring of their payload."""
    return QdrantSearch(open_access(location, api_key), collection, payload_keys)
