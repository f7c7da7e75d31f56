"""Which collections of an index are ours."""

from __future__ import annotations

from gmvaluator.index.calling import IndexConnection
from gmvaluator.index.schema import is_ours


def served_collections(connection: IndexConnection) -> list[str]:
    """Names of the collections of training images, ascending."""
    names = [one.name for one in connection.call(lambda client: client.get_collections()).collections]
    return sorted(name for name in names if _ours(connection, name))


def _ours(connection: IndexConnection, name: str) -> bool:
    return is_ours(connection.call(lambda client: client.get_collection(name)).config.metadata or {})
