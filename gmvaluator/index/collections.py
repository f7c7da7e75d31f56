"""Collection names and aliases.

On a Qdrant server NAME is an alias that points at one of NAME_1, NAME_2 and so on, so that a rebuild can replace the
whole collection in one step. The embedded engine keeps its generations inside a collection and uses no aliases.
"""

from __future__ import annotations

import re

from qdrant_client import models

from gmvaluator.errors import Conflict
from gmvaluator.index.qdrant import CALL_TIMEOUT_S, collection_parameters
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import CollectionMetadata, is_ours

REBUILD_OF = "rebuild_of"
"""Metadata key: the name that a collection will serve. Set while a rebuild fills the collection, empty afterwards."""

GENERATION_OF = "generation_of"
"""Metadata key: the name that a collection was created to serve. Never removed."""


def generation_name(name: str, number: int) -> str:
    """Return the name of the collection that holds generation `number` of `name`."""
    return f"{name}_{number}"


def aliases(connection: IndexConnection) -> dict[str, str]:
    """Return the server's aliases, as alias to collection."""
    descriptions = connection.call(lambda client: client.get_aliases()).aliases
    return {description.alias_name: description.collection_name for description in descriptions}


def collection_names(connection: IndexConnection) -> list[str]:
    """Return the names of all collections in ascending order, without aliases."""
    collections = connection.call(lambda client: client.get_collections()).collections
    return sorted(collection.name for collection in collections)


def served_collections(connection: IndexConnection) -> list[str]:
    """Return the names under which collections of training images are served, in ascending order."""
    targets = {} if connection.embedded else aliases(connection)
    unaliased = [name for name in collection_names(connection) if name not in set(targets.values())]
    # A killed rebuild leaves a partly filled collection that nothing serves.
    complete = [name for name in unaliased if not metadata_of(connection, name).get(REBUILD_OF)]
    return sorted(name for name in [*targets, *complete] if is_ours(metadata_of(connection, name)))


def metadata_of(connection: IndexConnection, name: str) -> dict[str, object]:
    """Return a collection's metadata, unparsed. `name` may be an alias."""
    return connection.call(lambda client: client.get_collection(name)).config.metadata or {}


def generations(connection: IndexConnection, name: str) -> dict[str, int]:
    """Return the collections whose name is that of a generation of `name`, with their generation numbers."""
    pattern = re.compile(rf"{re.escape(name)}_([1-9][0-9]{{0,8}})")
    matches = {collection: pattern.fullmatch(collection) for collection in collection_names(connection)}
    return {collection: int(match[1]) for collection, match in matches.items() if match is not None}


def is_generation(connection: IndexConnection, collection: str, name: str) -> bool:
    """Return whether this product created `collection` as a generation of `name`.

    Check this before deleting: a collection of another application may happen to have such a name.
    """
    return metadata_of(connection, collection).get(GENERATION_OF) == name


def make_collection(connection: IndexConnection, name: str, metadata: CollectionMetadata, **marks: str) -> None:
    """Create an empty collection if it is absent. marks: additional metadata entries."""
    parameters = collection_parameters(metadata)
    parameters["metadata"] = {**parameters["metadata"], **marks}
    try:
        connection.call(lambda client: client.create_collection(name, **parameters, timeout=CALL_TIMEOUT_S))
    except Conflict:
        return  # another program created it at the same time


def point_alias(connection: IndexConnection, alias: str, collection: str) -> None:
    """Point `alias` at `collection`, atomically for every reader."""
    actions: list[models.AliasOperations] = []
    if alias in aliases(connection):
        actions.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    actions.append(models.CreateAliasOperation(create_alias=create))
    connection.call(lambda client: client.update_collection_aliases(actions, timeout=CALL_TIMEOUT_S))
