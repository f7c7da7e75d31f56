"""Removing works from every collection of an index, from the thumbnails and from the catalogue.

In this order, so that a run that was killed can be given again: tombstones, which keep other runs from bringing a work
back; points, which ends its being found; thumbnails; and last where it was found, by which it is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.catalogue.removal import Removal
from gmvaluator.catalogue.store import Catalogue
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.index.schema import KEY_SHA256
from gmvaluator.ports import Point, VectorStore

BATCH_WORKS = 1_000

OpenStore = Callable[[str], AbstractContextManager[VectorStore]]


@dataclass(slots=True)
class Removed:
    """What a run took away. points: of all collections; places: rows of the catalogue that said where works were."""

    works: int = 0
    points: int = 0
    thumbnails: int = 0
    places: int = 0


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did.

    works: removed since the one before. log_emptied: False if a reader kept the catalogue's log from being emptied; the
    next writer empties it.
    """

    collections: list[str]
    works: int
    log_emptied: bool


@dataclass(frozen=True, slots=True)
class Remover:
    """Removes works from the collections named; open_store opens each."""

    catalogue: Catalogue
    open_store: OpenStore
    collections: Sequence[str]
    thumbnails: Path

    def run(self, works: Sequence[Removal], reason: str) -> Removed:
        """Remove `works`; doing it again changes nothing. Raises what index and catalogue raise."""
        for batch in _batches(works):
            self.catalogue.bury(batch, reason)
        return self.finish(works)

    def finish(self, works: Sequence[Removal]) -> Removed:
        """Take away what is left of works that are under tombstones, whatever cut their removal off."""
        done = Removed()
        ids = [work.training_image_id for work in works]
        for name in self.collections:
            with self.open_store(name) as store:
                done.points += _delete(store, ids)
        for batch in _batches(works):
            done.thumbnails += self._unlink(batch)
            done.places += self.catalogue.erase_places([work.training_image_id for work in batch])
        done.works = len(works)
        return done

    def _unlink(self, works: Iterable[Removal]) -> int:
        paths = [thumbnail_path(self.thumbnails, work.training_image_id) for work in works]
        there = [path for path in paths if path.is_file()]
        for path in there:
            path.unlink(missing_ok=True)
        return len(there)


def without_removed(catalogue: Catalogue) -> Callable[[Sequence[Point]], Sequence[Point]]:
    """Those of some points that are under no tombstone."""

    def kept(points: Sequence[Point]) -> Sequence[Point]:
        buried = catalogue.tombstoned({str(point.payload.get(KEY_SHA256, "")) for point in points})
        return [point for point in points if point.payload.get(KEY_SHA256) not in buried]

    return kept


def purge(remover: Remover, rebuild: Callable[[str], None]) -> Purged:
    """Leave no byte of what was removed: end removals that were cut off, rebuild every collection, then rewrite the
    catalogue's tables.

    Killed at any moment it can be given again.
    """
    begun_at = datetime.now(UTC)
    works = remover.catalogue.unpurged()
    remover.finish(works)
    for name in remover.collections:
        rebuild(name)
    emptied = remover.catalogue.rewrite()
    remover.catalogue.note_purge(begun_at)
    return Purged(list(remover.collections), len(works), emptied)


def _delete(store: VectorStore, ids: Sequence[TrainingImageId]) -> int:
    """The number of points that were there. Groups whose first member goes are looked at anew by `index group`."""
    stored = 0
    for start in range(0, len(ids), BATCH_WORKS):
        there = store.existing(ids[start : start + BATCH_WORKS])
        store.remove(sorted(there))
        stored += len(there)
    store.ungroup(ids)
    return stored


def _batches(works: Sequence[Removal]) -> Iterator[Sequence[Removal]]:
    for start in range(0, len(works), BATCH_WORKS):
        yield works[start : start + BATCH_WORKS]
