"""Rebuilding a collection beside the one that is served, and swapping it in whole.

An embedded engine does so by itself, in `generation-N+1/`. On a server a new collection is filled from the old one,
built, and served by moving the alias. Either can be killed at any moment: what serves is the old or the new one, whole,
and the next rebuild removes what was left half done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from gmvaluator.errors import IndexFailed, PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.collections import (
    GENERATION_OF,
    REBUILD_OF,
    aliases,
    generation_name,
    generations,
    is_generation,
    make_collection,
    metadata_of,
    point_alias,
)
from gmvaluator.index.location import Access
from gmvaluator.index.qdrant import CALL_TIMEOUT_S
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import KEY_DATA_SET, CollectionMetadata, IndexSettings
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Point

_MAX_PASSES = 10
_BATCH_POINTS = 256

Kept = Callable[[Sequence[Point]], Sequence[Point]]
"""Those of some points that may be in the new collection."""


def _every(points: Sequence[Point]) -> Sequence[Point]:
    return points


def rebuild(
    access: Access,
    collection: str,
    quantisation: str | None = None,
    settings: IndexSettings | None = None,
    kept: Kept = _every,
) -> None:
    """Serve `collection` from a fresh copy of its points, with other settings where they are given.

    No byte of a point that was deleted is in it. kept: on a server, whose copy is made here, points that it leaves out
    are not copied. Serving goes on meanwhile. Takes over `access` and closes it. Raises MissingIndex, IndexFailed,
    IndexUnavailable, PreconditionFailed for a server's collection that no alias serves.
    """
    store = QdrantStore(access, collection)
    try:
        if access.embedded:
            store.rebuild_embedded(_described(store, quantisation, settings))
            return
        swap = _Swap(access, store.connection, collection, kept)
        swap.finish_earlier()
        swap.run(_described(store, quantisation, settings))
    finally:
        store.close()


def _described(store: QdrantStore, quantisation: str | None, settings: IndexSettings | None) -> CollectionMetadata:
    old = store.metadata()
    return old.rebuilt(quantisation or old.quantisation, settings or old.settings)


class _Swap:
    """One rebuild on a server."""

    def __init__(self, access: Access, connection: IndexConnection, name: str, kept: Kept) -> None:
        self._access = access
        self._connection = connection
        self._name = name
        self._kept = kept

    def finish_earlier(self) -> None:
        """Clear up after a rebuild that was killed: what it had filled only goes, what it had replaced is followed up
        first, as others may have written to it until the alias moved."""
        serving = aliases(self._connection).get(self._name)
        if serving is None:
            return
        for one in sorted(generations(self._connection, self._name)):
            if one == serving or not is_generation(self._connection, one, self._name):
                continue
            if metadata_of(self._connection, one).get(REBUILD_OF):
                self._delete(one)
            else:
                self._follow_up(one, serving)

    def run(self, metadata: CollectionMetadata) -> None:
        """Fill, build, catch up with what was written meanwhile, and serve."""
        old = aliases(self._connection).get(self._name)
        if old is None:
            raise PreconditionFailed(
                f"{self._name!r} is a collection and no alias of one, so nothing can be swapped in for it: "
                "`gmvaluator index export` it, and `index add` the export with another --collection"
            )
        number = max(generations(self._connection, self._name).values(), default=0) + 1
        new = generation_name(self._name, number)
        make_collection(self._connection, new, metadata, **{REBUILD_OF: self._name, GENERATION_OF: self._name})
        source, target = QdrantStore(self._access, old), QdrantStore(self._access, new)
        target.create(metadata.profile)
        for points in _batches(source.scan(with_vectors=True)):
            target.upsert(self._kept(points))
        target.build()
        self._catch_up(source, target)
        point_alias(self._connection, self._name, new)
        self._follow_up(old, new)

    def _follow_up(self, old: str, new: str) -> None:
        """After the alias has moved: what was written to the old one at last is brought over, and the old one goes."""
        source, target = QdrantStore(self._access, old), QdrantStore(self._access, new)
        self._unmark(new)
        self._bring_late(source, target)
        self._remove_buried(target)
        self._delete(old)

    def _catch_up(self, source: QdrantStore, target: QdrantStore) -> None:
        """Until a pass finds nothing to change: others may go on writing. Raises IndexFailed if they never pause."""
        for _ in range(_MAX_PASSES):
            changed = self._add_missing(source, target)
            gone = [one.training_image_id for one in target.scan()]
            for start in range(0, len(gone), _BATCH_POINTS):
                page = gone[start : start + _BATCH_POINTS]
                target.remove(sorted(set(page) - source.existing(page)))
            if not changed:
                return
            target.build()
        raise IndexFailed(f"collection {self._name!r} is written to all the time: rebuild it when nobody indexes")

    def _add_missing(self, source: QdrantStore, target: QdrantStore) -> bool:
        """Bring over points that are absent or whose payload changed; whether there were any."""
        changed = False
        for points in _batches(source.scan()):
            there = {one.training_image_id: one.payload for one in target.fetch_payloads(_ids(points))}
            differing = [one for one in self._kept(points) if there.get(one.training_image_id) != one.payload]
            if differing:
                changed = True
                target.upsert(source.fetch(_ids(differing)))
        return changed

    def _bring_late(self, source: QdrantStore, target: QdrantStore) -> None:
        """Bring over what was written to the old one just before the swap.

        Others write to the new one by now: what it has of a point counts, and only joins the data sets of the old.
        """
        for points in _batches(source.scan()):
            there = {one.training_image_id: one.payload for one in target.fetch_payloads(_ids(points))}
            kept = self._kept(points)
            target.upsert(source.fetch([one for one in _ids(kept) if one not in there]))
            for one in kept:
                known = there.get(one.training_image_id, one.payload).get(KEY_DATA_SET, ())
                for name in one.payload.get(KEY_DATA_SET, ()):
                    if name not in known:
                        target.join_data_set([one.training_image_id], name)

    def _remove_buried(self, target: QdrantStore) -> None:
        """Take away what was removed from the old one after its last pass, and what came back with `_bring_late`."""
        for points in _batches(target.scan()):
            gone = sorted(set(_ids(points)) - set(_ids(self._kept(points))))
            if gone:
                target.remove(gone)
                target.ungroup(gone)

    def _unmark(self, collection: str) -> None:
        done = {REBUILD_OF: ""}
        self._connection.call(
            lambda client: client.update_collection(collection, metadata=done, timeout=CALL_TIMEOUT_S)
        )

    def _delete(self, collection: str) -> None:
        self._connection.call(lambda client: client.delete_collection(collection, timeout=CALL_TIMEOUT_S))


def _batches(points: Iterable[Point]) -> Iterator[list[Point]]:
    iterator = iter(points)
    while page := list(islice(iterator, _BATCH_POINTS)):
        yield page


def _ids(points: Sequence[Point]) -> list[TrainingImageId]:
    return [one.training_image_id for one in points]
