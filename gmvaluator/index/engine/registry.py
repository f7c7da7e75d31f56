"""Registry of the collections and aliases of an index folder."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import grpc

from gmvaluator.files import atomic_write, sync
from gmvaluator.index.engine.collection import Collection
from gmvaluator.index.engine.files import remove_tree
from gmvaluator.index.engine.generations import Description
from gmvaluator.index.engine.supported_api import Refused

_log = logging.getLogger(__name__)
MAX_COLLECTIONS = 100
_MAKING, _LEAVING = ".making-", ".leaving-"
"""Prefixes of folders of collections that are being created or deleted."""

_ALIASES = "aliases.json"


class Registry:
    """The collections and aliases of a folder. Thread-safe.

    Opening it removes collections that a crash left half created or half deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        for leftover in [*folder.glob(f"{_MAKING}*"), *folder.glob(f"{_LEAVING}*")]:
            remove_tree(leftover)
        self._aliases = _read_aliases(folder)
        paths = sorted(path.parent for path in folder.glob("*/CURRENT"))
        self._collections = {path.name: Collection(path) for path in paths}

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._collections)

    def get(self, name: str) -> Collection:
        """Return the collection that `name`, possibly an alias, refers to. Raises Refused (NOT_FOUND)."""
        with self._lock:
            return self._named(self._aliases.get(name, name))

    def aliases(self) -> dict[str, str]:
        """Return the aliases, as alias to collection."""
        with self._lock:
            return dict(self._aliases)

    def change_aliases(self, changes: Sequence[tuple[str, str | None]]) -> None:
        """Point each alias at a collection, or delete it where that is None; atomic and durable. Raises Refused."""
        with self._lock:
            aliases = dict(self._aliases)
            for alias, collection in changes:
                if collection is None:
                    aliases.pop(alias, None)
                    continue
                self._named(collection)
                if alias in self._collections:
                    raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"{alias!r} is a collection: an alias needs a name")
                aliases[alias] = collection
            atomic_write(self._folder / _ALIASES, json.dumps(aliases, sort_keys=True).encode())
            self._aliases = aliases

    def _named(self, name: str) -> Collection:
        if name not in self._collections:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"there is no collection {name[:100]!r}")
        return self._collections[name]

    def create(self, name: str, description: Description) -> None:
        """Create an empty collection; after a crash it exists completely or not at all. Raises Refused."""
        with self._lock:
            if name in self._collections or name in self._aliases:
                raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"there is a collection {name!r} already")
            if len(self._collections) >= MAX_COLLECTIONS:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_COLLECTIONS} collections are the limit")
            making = self._folder / f"{_MAKING}{uuid.uuid4()}"
            making.mkdir()
            Collection.make(making, description)
            making.rename(self._folder / name)
            sync(self._folder)
            self._collections[name] = Collection(self._folder / name)

    def delete(self, name: str) -> None:
        """Delete a collection, its aliases and its files. Raises Refused."""
        with self._lock:
            collection = self._named(name)
            if name in self._aliases.values():
                aliases = {alias: target for alias, target in self._aliases.items() if target != name}
                atomic_write(self._folder / _ALIASES, json.dumps(aliases, sort_keys=True).encode())
                self._aliases = aliases
            del self._collections[name]
        collection.close()
        # The rename is atomic; a crash while files are deleted leaves a folder that the next start removes.
        leaving = self._folder / f"{_LEAVING}{uuid.uuid4()}"
        (self._folder / name).rename(leaving)
        sync(self._folder)
        remove_tree(leaving)

    def flush(self) -> None:
        """Flush every collection to disk."""
        with self._lock:
            collections = list(self._collections.values())
        for collection in collections:
            collection.flush()

    def close(self) -> None:
        """Stop builds, flush and close every collection."""
        with self._lock:
            for name, collection in self._collections.items():
                _log.info("closing %s", name)
                collection.close()
            self._collections.clear()


def _read_aliases(folder: Path) -> dict[str, str]:
    path = folder / _ALIASES
    aliases: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    return aliases
