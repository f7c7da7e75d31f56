"""The collections that are searched: opened once each, and checked against the profile in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gmvaluator.errors import PreconditionFailed, ProfileMismatch
from gmvaluator.index.schema import measured_recall, require_profile
from gmvaluator.ports import CandidateSearch, CollectionInfo
from gmvaluator.profile import ProfileIdentity


def require_built(info: CollectionInfo) -> None:
    """Raises PreconditionFailed if most points are not indexed: every search would read them all."""
    if 2 * info.indexed_points < info.points:
        raise PreconditionFailed(
            f"collection {info.name!r} is not built: {info.indexed_points:,} of {info.points:,} points are indexed; "
            "run `gmvaluator index add` again to its end"
        )


class OpenCollections:
    """Opens a collection when it is first asked for; a wrong one is refused each time it is asked for."""

    def __init__(self, open_collection: Callable[[str], CandidateSearch], identity: ProfileIdentity) -> None:
        self._open_collection = open_collection
        self._identity = identity
        self._searches: dict[str, CandidateSearch] = {}
        self._recalls: dict[str, float | None] = {}
        self._opening = asyncio.Lock()

    async def search(self, collection: str) -> CandidateSearch:
        """Raises MissingIndex, ProfileMismatch, PreconditionFailed if it is not built, or IndexUnavailable."""
        found = self._searches.get(collection)
        if found is not None:
            return found
        async with self._opening:
            if collection not in self._searches:
                self._searches[collection] = await self._checked(collection)
            return self._searches[collection]

    async def look_again(self, collection: str) -> CollectionInfo:
        """State of a collection as it is now: its searches follow the settings that `index verify` chose since.

        Raises what `search` raises. One that is another profile's by now, under the same name, is not searched again.
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
        """What `index verify` had found when the collection was looked at last; None if nobody had asked."""
        await self.search(collection)
        return self._recalls[collection]

    async def close(self) -> None:
        """Let go of the index."""
        for search in self._searches.values():
            await search.close()
        self._searches.clear()

    async def _checked(self, collection: str) -> CandidateSearch:
        search = await asyncio.to_thread(self._open_collection, collection)
        try:
            info = await search.info()
            require_profile(info, self._identity)
            require_built(info)
        except BaseException:
            await search.close()
            raise
        self._recalls[collection] = measured_recall(info.metadata)
        return search
