"""Rebuild of a collection next to the served one, followed by an atomic swap.

The embedded engine does this itself, in `generation-N+1/`. On a server a new collection is filled from the old one,
built, and served by moving the alias. A rebuild can be killed at any moment: either the old or the new collection is
served, whole, and the next rebuild removes leftovers.
"""

from __future__ import annotations

from gmvaluator.errors import IndexFailed, PreconditionFailed
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
from gmvaluator.index.copying import BATCH_POINTS, PointFilter, all_points, batches, copy_missing, ids_of
from gmvaluator.index.location import Access
from gmvaluator.index.qdrant import CALL_TIMEOUT_S
from gmvaluator.index.resilient_client import IndexConnection
from gmvaluator.index.schema import KEY_DATA_SET, CollectionMetadata, IndexSettings
from gmvaluator.index.store import QdrantStore

_MAX_PASSES = 10
"""Maximum number of passes over the old collection; then a rebuild gives up because others keep writing."""


def rebuild(
    access: Access,
    collection: str,
    quantisation: str | None = None,
    settings: IndexSettings | None = None,
    kept: PointFilter = all_points,
) -> None:
    """Replace `collection` by a fresh copy of its points, with `quantisation` and `settings` where given.

    The copy contains no byte of a deleted point. Searches continue during the rebuild. kept: selects the points to
    copy, on a server only. Takes ownership of `access` and closes it. Raises MissingIndex, IndexFailed,
    IndexUnavailable, PreconditionFailed for a server's collection that is not behind an alias.
    """
    store = QdrantStore(access, collection)
    try:
        if access.embedded:
            store.rebuild_embedded(_new_metadata(store, quantisation, settings))
            return
        swap = _Swap(access, store.connection, collection, kept)
        swap.finish_earlier()
        swap.run(_new_metadata(store, quantisation, settings))
    finally:
        store.close()


def _new_metadata(store: QdrantStore, quantisation: str | None, settings: IndexSettings | None) -> CollectionMetadata:
    old = store.metadata()
    return old.rebuilt(quantisation or old.quantisation, settings or old.settings)


class _Swap:
    """A rebuild on a server: fill a new collection, move the alias, delete the old collection."""

    def __init__(self, access: Access, connection: IndexConnection, name: str, kept: PointFilter) -> None:
        self._access = access
        self._connection = connection
        self._name = name
        self._kept = kept

    def finish_earlier(self) -> None:
        """Clean up after a killed rebuild.

        A collection that was still being filled is deleted. One that had already been replaced is first searched for
        late writes, because others may have written to it until the alias moved.
        """
        serving = aliases(self._connection).get(self._name)
        if serving is None:
            return
        for collection in sorted(generations(self._connection, self._name)):
            if collection == serving or not is_generation(self._connection, collection, self._name):
                continue
            if metadata_of(self._connection, collection).get(REBUILD_OF):
                self._delete(collection)
            else:
                self._retire(collection, serving)

    def run(self, metadata: CollectionMetadata) -> None:
        """Fill and build a new collection, catch up with concurrent writes, and serve it."""
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
        for points in batches(source.scan(with_vectors=True)):
            target.upsert(self._kept(points))
        target.build()
        self._catch_up(source, target)
        point_alias(self._connection, self._name, new)
        self._retire(old, new)

    def _retire(self, old: str, new: str) -> None:
        """Copy the last writes to collection `old`, which the alias has left, into `new`, and delete `old`."""
        source, target = QdrantStore(self._access, old), QdrantStore(self._access, new)
        self._unmark(new)
        self._copy_late_writes(source, target)
        self._remove_excluded(target)
        self._delete(old)

    def _catch_up(self, source: QdrantStore, target: QdrantStore) -> None:
        """Copy concurrent writes until a pass finds none.

        Raises IndexFailed after `_MAX_PASSES` passes with changes.
        """
        for _ in range(_MAX_PASSES):
            changed = bool(copy_missing(source, target, self._kept))
            copied = [point.training_image_id for point in target.scan()]
            for start in range(0, len(copied), BATCH_POINTS):
                page = copied[start : start + BATCH_POINTS]
                target.remove(sorted(set(page) - source.existing(page)))
            if not changed:
                return
            target.build()
        raise IndexFailed(f"collection {self._name!r} is written to all the time: rebuild it when nobody indexes")

    def _copy_late_writes(self, source: QdrantStore, target: QdrantStore) -> None:
        """Copy what was written to the old collection just before the swap."""
        for points in batches(source.scan()):
            payloads = {point.training_image_id: point.payload for point in target.fetch_payloads(ids_of(points))}
            kept = self._kept(points)
            missing = [image_id for image_id in ids_of(kept) if image_id not in payloads]
            target.upsert(source.fetch(missing, local_features=True))
            # Others write to the new collection by now, so its points take precedence; only data sets are merged.
            for point in kept:
                data_sets = payloads.get(point.training_image_id, point.payload).get(KEY_DATA_SET, ())
                for name in point.payload.get(KEY_DATA_SET, ()):
                    if name not in data_sets:
                        target.join_data_set([point.training_image_id], name)

    def _remove_excluded(self, target: QdrantStore) -> None:
        """Remove points that `kept` excludes by now.

        They were removed from the old collection after its last pass, or copied again by `_copy_late_writes`.
        """
        for points in batches(target.scan()):
            excluded = sorted(set(ids_of(points)) - set(ids_of(self._kept(points))))
            if excluded:
                target.remove(excluded)
                target.ungroup(excluded)

    def _unmark(self, collection: str) -> None:
        # An update merges metadata, so the key is emptied, not removed.
        metadata = {REBUILD_OF: ""}
        self._connection.call(
            lambda client: client.update_collection(collection, metadata=metadata, timeout=CALL_TIMEOUT_S)
        )

    def _delete(self, collection: str) -> None:
        self._connection.call(lambda client: client.delete_collection(collection, timeout=CALL_TIMEOUT_S))
