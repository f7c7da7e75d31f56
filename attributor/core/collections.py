"""The index collections in use: each is opened once, and checked against the profile in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gmvaluator.errors import PreconditionFailed, ProfileMismatch
from gmvaluator.index.schema import measured_recall, require_profile
from gmvaluator.ports import CandidateSearch, CollectionInfo
from gmvaluator.profile import ProfileIdentity


def require_built(info: CollectionInfo) -> None:
    """Raise PreconditionFailed if most points are not indexed, since each search would then scan all of them."""
    if 2 * info.indexed_points < info.points:
        raise PreconditionFailed(
            f"collection {info.name!r} is not built: {info.indexed_points:,} of {info.points:,} points are indexed; "
            "run `gmvaluator index add` again to its end"
        )


class OpenCollections:
    """Collections, each opened at its first use. One that is refused is opened again at its next use."""

    def __init__(self, open_collection: Callable[[str], CandidateSearch], identity: ProfileIdentity) -> None:
        self._open_collection = open_collection
        self._identity = identity
        self._searches: dict[str, CandidateSearch] = {}
        self._recalls: dict[str, float | None] = {}
        self._opening = asyncio.Lock()

    async def search(self, collection: str) -> CandidateSearch:
        """Return the search of a collection.

        Raises MissingIndex, ProfileMismatch, PreconditionFailed if it is not built, or IndexUnavailable.
        """
        search = self._searches.get(collection)
        if search is not None:
            return search
        # Opened once, however many calls need it first.
        async with self._opening:
            if collection not in self._searches:
                self._searches[collection] = await self._open(collection)
            return self._searches[collection]

    async def refresh(self, collection: str) -> CollectionInfo:
        """Read a collection's state; its searches then use the settings that `index verify` chose last.

        Raises what `search` raises. A collection that was replaced by one of another profile is closed.
        """
        search = await self.search(collection)
        info = await search.info()
        try:
            require_profile(info, self._identity)
        except ProfileMismatch:
            if self._searches.get(collection) is search:
                del self._searches[collection]
                await search.close()
            raise
        self._recalls[collection] = measured_recall(info.metadata)
        return info

    async def measured_recall(self, collection: str) -> float | None:
        """Return the recall in (0, 1] that `index verify` had measured when the state was last read, or None."""
        await self.search(collection)
        return self._recalls[collection]

    async def close(self) -> None:
        """Close the collections."""
        for search in self._searches.values():
            await search.close()
        self._searches.clear()

    async def _open(self, collection: str) -> CandidateSearch:
        search = await asyncio.to_thread(self._open_collection, collection)
        try:
            info = await search.info()
            require_profile(info, self._identity)
            require_built(info)
        except BaseException:  # also when the call that opens it is cancelled
            await search.close()
            raise
        self._recalls[collection] = measured_recall(info.metadata)
        return search
