"""The writer, the last step of the pipeline: thumbnails, index, catalogue and progress, in this order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gmvaluator.catalogue.records import NewWork, OwnerReference, Recorded
from gmvaluator.catalogue.tombstones import Record
from gmvaluator.errors import ModelFailed
from gmvaluator.files import atomic_write, private_folder
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.index.schema import (
    KEY_DATA_SET,
    KEY_KEY,
    KEY_LABELS,
    KEY_LOCAL_FEATURES,
    KEY_SHA256,
    KEY_TITLE,
    KEY_URI,
)
from gmvaluator.index.vectors import with_checksum
from gmvaluator.ports import Float32Array, Point, VectorStore
from indexer.reading import DecodedImage
from indexer.report import REMOVED, Counts, LeftOut

REMOVED_CONTENT = "it was removed from the index, and stays out"
"""Reason for leaving out an image whose bytes have a tombstone."""

REMOVED_RECORD = (
    "the image of this record was removed from the index: `gmvaluator index restore` takes that back, "
    "and another image needs another key, file or URL"
)
"""Reason for leaving out an image whose record has a tombstone."""

REMOVED_OWNER = "its owner was erased, and is not recorded again"
"""Reason for leaving out a new image whose owner has a tombstone."""

ImageVectors = tuple[Float32Array, Float32Array] | ModelFailed
"""The recall vector (D,) and perceptual vectors (V, P) of one image, or the error that prevented them."""

Written = tuple[Counts, list[LeftOut]]
"""The counts of a written batch, and its rows left out, by position."""


class WorkRecorder(Protocol):
    """The part of the catalogue that the writer needs."""

    def tombstoned(self, sha256s: Collection[str]) -> set[str]:
        """Return those of `sha256s` that have a tombstone."""

    def removed_among(self, records: Collection[Record]) -> set[Record]:
        """Return those of `records` that have a tombstone."""

    def erased_owners(self, owners: Collection[OwnerReference]) -> set[OwnerReference]:
        """Return those of `owners` that have a tombstone."""

    def known(self, sha256s: Collection[str]) -> set[str]:
        """Return those of `sha256s` whose images are in the catalogue."""

    def record(self, batch: Sequence[NewWork]) -> Recorded:
        """Record works; return the counts, and the works that were refused because they have a tombstone by now."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that could be indexed, as tombstones know it."""

    sha256: str
    record: Record
    owner: OwnerReference | None = None

    @classmethod
    def of(cls, work: NewWork) -> Candidate:
        """Return the candidate of a work."""
        return cls(work.sha256, Record(work.data_set, work.key, work.uri, work.url), work.owner)


def removal_reasons(catalogue: WorkRecorder, candidates: Iterable[Candidate]) -> dict[Candidate, str]:
    """Return the reason for each of the candidates that was removed before."""
    images = set(candidates)
    tombstoned = catalogue.tombstoned({image.sha256 for image in images})
    records = catalogue.removed_among({image.record for image in images})
    erased = catalogue.erased_owners({image.owner for image in images if image.owner is not None})
    theirs = {image for image in images if image.owner in erased}
    # What is known stays, with the claims that it has.
    known = catalogue.known({image.sha256 for image in theirs}) if theirs else set()
    by_owner = {image: REMOVED_OWNER for image in theirs if image.sha256 not in known}
    by_record = {image: REMOVED_RECORD for image in images if image.record in records}
    return by_owner | by_record | {image: REMOVED_CONTENT for image in images if image.sha256 in tombstoned}


class ShardLog(Protocol):
    """The recorded progress of one shard."""

    def advance(
        self,
        position: int,
        batch: Counts,
        left_out: Sequence[tuple[int, LeftOut]],
        works: Collection[TrainingImageId] = (),
    ) -> None:
        """Record that every row before `position` is done.

        batch: counts of the rows since the last call. left_out: rows left out, each with its position. works: works of
        the batch that the index holds.
        """


@dataclass(slots=True)
class Batch:
    """`rows` rows of a shard from `start` on; each is in exactly one list, with its position.

    fresh: new images to embed. known: works that are indexed already. left_out: rows that are not indexed.
    """

    start: int
    rows: int
    fresh: list[tuple[int, DecodedImage]] = field(default_factory=list)
    known: list[tuple[int, NewWork]] = field(default_factory=list)
    left_out: list[tuple[int, LeftOut]] = field(default_factory=list)


@dataclass
class Writer:
    """A writer of batches of one data set.

    A point is in the index before the catalogue records its work, and both before progress is recorded.
    """

    store: VectorStore
    catalogue: WorkRecorder
    thumbnails: Path
    data_set: str
    _failed: dict[TrainingImageId, str] = field(default_factory=dict)
    """Images that the models could not embed, with the reason."""

    def write(self, batch: Batch, vectors: Sequence[ImageVectors], log: ShardLog) -> Written:
        """Write thumbnails, points, catalogue and progress, in this order. vectors: one entry per `batch.fresh`."""
        points, works = [], []
        for (position, image), image_vectors in zip(batch.fresh, vectors, strict=True):
            if isinstance(image_vectors, ModelFailed):
                self._failed[image.training_image_id] = str(image_vectors)
                batch.left_out.append((position, LeftOut(image.work.key, str(image_vectors))))
            else:
                content = payload(image.work, image.local_features)
                points.append(with_checksum(Point(image.training_image_id, *image_vectors, content)))
                works.append(image.work)
                # Before the point, so that every work that is found has its thumbnail.
                self._store_thumbnail(image)
        if points:
            self.store.upsert(points)
        known = list(self._known(batch))
        # New points have the data set in their payload already.
        fresh = {point.training_image_id for point in points}
        self.store.join_data_set(sorted({work.training_image_id for work in known} - fresh), self.data_set)
        refused = self._withdraw(self.catalogue.record(works + known).refused)
        batch.left_out.extend(_removed(batch, refused))
        points = [point for point in points if point.training_image_id not in refused]
        known = [work for work in known if work.training_image_id not in refused]
        counts = Counts.of(batch.rows, len(points), len(known), (row for _, row in batch.left_out))
        counts.first_frames = _first_frames(batch, points)
        left_out = sorted(batch.left_out, key=_position)
        indexed = [*(point.training_image_id for point in points), *(work.training_image_id for work in known)]
        log.advance(batch.start + batch.rows, counts, left_out, indexed)
        return counts, [row for _, row in left_out]

    def _known(self, batch: Batch) -> Iterator[NewWork]:
        """Yield works that are indexed already; leave out duplicates of an image that the models could not embed."""
        for position, work in batch.known:
            reason = self._failed.get(work.training_image_id)
            if reason is None:
                yield work
            else:
                batch.left_out.append((position, LeftOut(work.key, reason)))

    def _withdraw(self, refused: Sequence[TrainingImageId]) -> set[TrainingImageId]:
        """Delete points and thumbnails of works that another process removed while they were in flight."""
        if refused:
            self.store.remove(list(refused))
        for work in refused:
            thumbnail_path(self.thumbnails, work).unlink(missing_ok=True)
        return set(refused)

    def _store_thumbnail(self, image: DecodedImage) -> None:
        path = thumbnail_path(self.thumbnails, image.training_image_id)
        private_folder(path.parent)
        atomic_write(path, image.thumbnail, mode=0o600, durable=False)  # can be made again from the image


def payload(work: NewWork, local_features: str | None) -> dict[str, Any]:
    """Return the payload that the index stores with a work's vectors.

    local_features: their text, or None for a profile without them.
    """
    features = {} if local_features is None else {KEY_LOCAL_FEATURES: local_features}
    return features | {
        KEY_SHA256: work.sha256,
        KEY_KEY: work.key,
        KEY_URI: work.uri,
        KEY_TITLE: work.title,
        KEY_LABELS: list(work.labels),
        KEY_DATA_SET: [work.data_set],
    }


def _first_frames(batch: Batch, points: Sequence[Point]) -> int:
    """Return how many of the points show the first of several frames."""
    several = {image.training_image_id for _, image in batch.fresh if image.first_of_several}
    return sum(point.training_image_id in several for point in points)


def _removed(batch: Batch, refused: Collection[TrainingImageId]) -> list[tuple[int, LeftOut]]:
    works = [*((position, image.work) for position, image in batch.fresh), *batch.known]
    return [
        (position, LeftOut(work.key, REMOVED_CONTENT, REMOVED))
        for position, work in works
        if work.training_image_id in refused
    ]


def _position(entry: tuple[int, LeftOut]) -> int:
    return entry[0]
