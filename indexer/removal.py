"""Removal of works from every collection of an index, from the thumbnails and from the catalogue.

The order makes a run that was killed repeatable: first tombstones, which keep other runs from indexing a work again;
then points, so that it is no longer found; then thumbnails; last its sources in the catalogue, by which it is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.catalogue.store import Catalogue
from gmvaluator.catalogue.tombstones import Removal
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.index.schema import KEY_SHA256
from gmvaluator.ports import Point, VectorStore
from indexer.target import PointFilter

BATCH_WORKS = 1_000
"""Works of one transaction or call of the index."""

OpenStore = Callable[[str], AbstractContextManager[VectorStore]]
"""Opens the collection of a name."""


@dataclass(slots=True)
class Removed:
    """Counts of what a run removed. points: of all collections; places: records of the works in the catalogue."""

    works: int = 0
    points: int = 0
    thumbnails: int = 0
    places: int = 0


@dataclass(frozen=True, slots=True)
class Purged:
    """The outcome of a purge.

    collections: names of those rebuilt. works: number removed since the last purge. log_emptied: False if a reader kept
    the catalogue's write-ahead log from being emptied; the next writer empties it.
    """

    collections: list[str]
    works: int
    log_emptied: bool


@dataclass(frozen=True, slots=True)
class Remover:
    """A removal of works from the named collections, the thumbnails and the catalogue."""

    catalogue: Catalogue
    open_store: OpenStore
    collections: Sequence[str]
    thumbnails: Path

    def run(self, works: Sequence[Removal], reason: str) -> Removed:
        """Remove `works`; a repetition changes nothing. Raises the errors of index and catalogue."""
        for batch in _batches(works):
            self.catalogue.add_tombstones(batch, reason)
        return self.finish(works)

    def finish(self, works: Sequence[Removal]) -> Removed:
        """Remove what is left of works that have tombstones, after a removal that was interrupted."""
        removed = Removed(works=len(works))
        ids = [work.training_image_id for work in works]
        for name in self.collections:
            with self.open_store(name) as store:
                removed.points += _delete(store, ids)
        for batch in _batches(works):
            removed.thumbnails += self._unlink(batch)
            removed.places += self.catalogue.erase_sources([work.training_image_id for work in batch])
        return removed

    def _unlink(self, works: Iterable[Removal]) -> int:
        paths = [thumbnail_path(self.thumbnails, work.training_image_id) for work in works]
        existing = [path for path in paths if path.is_file()]
        for path in existing:
            path.unlink(missing_ok=True)
        return len(existing)


def without_removed(catalogue: Catalogue) -> PointFilter:
    """Return a filter that keeps the points without a tombstone."""

    def keep(points: Sequence[Point]) -> Sequence[Point]:
        tombstoned = catalogue.tombstoned({str(point.payload.get(KEY_SHA256, "")) for point in points})
        return [point for point in points if point.payload.get(KEY_SHA256) not in tombstoned]

    return keep


def purge(remover: Remover, rebuild: Callable[[str], None]) -> Purged:
    """Erase every byte of removed works: complete interrupted removals, rebuild all collections, rewrite the catalogue.

    A purge that was killed at any moment can be repeated.
    """
    # Taken first, so that a work removed during the rebuild is left to the next purge.
    begun_at = datetime.now(UTC)
    works = remover.catalogue.unpurged()
    remover.finish(works)
    for name in remover.collections:
        rebuild(name)
    emptied = remover.catalogue.rewrite()
    remover.catalogue.record_purge(begun_at)
    return Purged(list(remover.collections), len(works), emptied)


def _delete(store: VectorStore, ids: Sequence[TrainingImageId]) -> int:
    """Delete points and return how many there were; `index group` will check groups without a first member again."""
    deleted = 0
    for start in range(0, len(ids), BATCH_WORKS):
        existing = store.existing(ids[start : start + BATCH_WORKS])
        store.remove(sorted(existing))
        deleted += len(existing)
    store.ungroup(ids)
    return deleted


def _batches(works: Sequence[Removal]) -> Iterator[Sequence[Removal]]:
    for start in range(0, len(works), BATCH_WORKS):
        yield works[start : start + BATCH_WORKS]
