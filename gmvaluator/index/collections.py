"""Names of collections: which are ours, and the aliases by which those on a server are served.

On a server NAME is an alias of NAME_1, NAME_2 and so on: whoever asks for NAME asks for the one it points at. An
embedded engine has generations of its own inside a collection, and no need of aliases.
"""

from __future__ import annotations

import re

from qdrant_client import models

from gmvaluator.errors import Conflict
from gmvaluator.index.qdrant import CALL_TIMEOUT_S, collection_parameters
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import CollectionMetadata, is_ours


def generation_name(name: str, number: int) -> str:
    """The collection that holds generation `number` of what is served as `name`."""
    return f"{name}_{number}"


def aliases(connection: IndexConnection) -> dict[str, str]:
    """Alias to collection."""
    found = connection.call(lambda client: client.get_aliases()).aliases
    return {one.alias_name: one.collection_name for one in found}


def collection_names(connection: IndexConnection) -> list[str]:
    """Names of all collections, which aliases are not, ascending."""
    return sorted(one.name for one in connection.call(lambda client: client.get_collections()).collections)


def served_collections(connection: IndexConnection) -> list[str]:
    """Names under which collections of training images are served, ascending."""
    known = {} if connection.embedded else aliases(connection)
    apart = [name for name in collection_names(connection) if name not in set(known.values())]
    whole = [name for name in apart if not metadata_of(connection, name).get(REBUILD_OF)]
    return sorted(name for name in [*known, *whole] if is_ours(metadata_of(connection, name)))


REBUILD_OF, GENERATION_OF = "rebuild_of", "generation_of"
"""In a collection's metadata: the name it is to be served by, while it is being filled, and for ever."""


def metadata_of(connection: IndexConnection, name: str) -> dict[str, object]:
    """A collection's metadata as it is."""
    return connection.call(lambda client: client.get_collection(name)).config.metadata or {}


def generations(connection: IndexConnection, name: str) -> dict[str, int]:
    """Collections that are generations of `name`, with their numbers."""
    form = re.compile(rf"{re.escape(name)}_([1-9][0-9]{{0,8}})")
    found = {one: form.fullmatch(one) for one in collection_names(connection)}
    return {one: int(match[1]) for one, match in found.items() if match is not None}


def is_generation(connection: IndexConnection, collection: str, name: str) -> bool:
    """Whether we made `collection` to be served as `name`; somebody else's may have such a name too."""
    return metadata_of(connection, collection).get(GENERATION_OF) == name


def make_collection(connection: IndexConnection, name: str, metadata: CollectionMetadata, **marks: str) -> None:
    """Make an empty collection, unless it is there. marks: added to its metadata."""
    parameters = collection_parameters(metadata)
    parameters["metadata"] = {**parameters["metadata"], **marks}
    try:
        connection.call(lambda client: client.create_collection(name, **parameters, timeout=CALL_TIMEOUT_S))
    except Conflict:
        return  # another program made it at the same time


def point_alias(connection: IndexConnection, alias: str, collection: str) -> None:
    """Serve `collection` as `alias` from now on, in one step for everybody who asks."""
    actions: list[models.AliasOperations] = []
    if alias in aliases(connection):
        actions.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    actions.append(models.CreateAliasOperation(create_alias=create))
    connection.call(lambda client: client.update_collection_aliases(actions, timeout=CALL_TIMEOUT_S))
