"""The last step of the pipeline: a batch goes to thumbnails, index, catalogue and progress, in this order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gmvaluator.catalogue.records import NewWork, Recorded
from gmvaluator.errors import ModelFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.index.schema import KEY_DATA_SET, KEY_KEY, KEY_LABELS, KEY_SHA256, KEY_TITLE, KEY_URI
from gmvaluator.ports import Float32Array, Point, VectorStore
from indexer.reading import DecodedImage
from indexer.report import REMOVED, Counts, LeftOut

REMOVED_CONTENT = "it was removed from the index, and stays out"
REMOVED_KEY = "an image of this key was removed from the index: give another image another key"
"""Why an image under a tombstone is left out."""

Embedded = tuple[Float32Array, Float32Array] | ModelFailed
"""Recall vector and perceptual vectors of one image, or why there are none."""

Written = tuple[Counts, list[LeftOut]]


class WorkRecorder(Protocol):
    """The catalogue, as far as writing needs it."""

    def tombstoned(self, sha256s: Collection[str]) -> set[str]: ...

    def removed_keys(self, data_set: str, keys: Collection[str]) -> set[str]: ...

    def record(self, batch: Sequence[NewWork]) -> Recorded: ...


class ShardLog(Protocol):
    """Where the progress of one shard is kept."""

    def advance(
        self,
        position: int,
        batch: Counts,
        left_out: Sequence[tuple[int, LeftOut]],
        works: Collection[TrainingImageId] = (),
    ) -> None:
        """Everything before `position` is dealt with for good. left_out: each row with its position.

        works: those of the batch that the index holds.
        """


@dataclass(slots=True)
class Batch:
    """Rows from `start` on. Every row is in one of the three lists."""

    start: int
    rows: int
    fresh: list[tuple[int, DecodedImage]] = field(default_factory=list)
    known: list[tuple[int, NewWork]] = field(default_factory=list)
    left_out: list[tuple[int, LeftOut]] = field(default_factory=list)


@dataclass
class Writer:
    """Writes batches of one data set. A point is in the index before the catalogue learns of its work, and both before
    progress is noted."""

    store: VectorStore
    catalogue: WorkRecorder
    thumbnails: Path
    data_set: str
    _refused: dict[TrainingImageId, str] = field(default_factory=dict)

    def removed(self, images: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Why, for those of some images, by SHA-256 and key, that were removed before."""
        wanted = set(images)
        buried = self.catalogue.tombstoned({sha256 for sha256, _ in wanted})
        keys = self.catalogue.removed_keys(self.data_set, {key for _, key in wanted})
        by_key = {(sha256, key): REMOVED_KEY for sha256, key in wanted if key in keys}
        return by_key | {(sha256, key): REMOVED_CONTENT for sha256, key in wanted if sha256 in buried}

    def write(self, batch: Batch, vectors: Sequence[Embedded], log: ShardLog) -> Written:
        """In order: thumbnails, points, catalogue, progress."""
        points, works = [], []
        for (position, image), embedded in zip(batch.fresh, vectors, strict=True):
            if isinstance(embedded, ModelFailed):
                self._refused[image.training_image_id] = str(embedded)
                batch.left_out.append((position, LeftOut(image.work.key, str(embedded))))
            else:
                points.append(Point(image.training_image_id, *embedded, payload=payload(image.work)))
                works.append(image.work)
                self._keep_thumbnail(image)
        if points:
            self.store.upsert(points)
        known = list(self._known(batch))
        fresh = {point.training_image_id for point in points}
        self.store.join_data_set(sorted({work.training_image_id for work in known} - fresh), self.data_set)
        refused = self._withdraw(self.catalogue.record(works + known).refused)
        batch.left_out.extend(_removed(batch, refused))
        points = [point for point in points if point.training_image_id not in refused]
        known = [work for work in known if work.training_image_id not in refused]
        counts = Counts.of(batch.rows, len(points), len(known), (row for _, row in batch.left_out))
        left_out = sorted(batch.left_out, key=_position)
        held = [*(point.training_image_id for point in points), *(work.training_image_id for work in known)]
        log.advance(batch.start + batch.rows, counts, left_out, held)
        return counts, [row for _, row in left_out]

    def _known(self, batch: Batch) -> Iterator[NewWork]:
        """Works that are indexed already; a copy of an image that the models refused is refused as well."""
        for position, work in batch.known:
            reason = self._refused.get(work.training_image_id)
            if reason is None:
                yield work
            else:
                batch.left_out.append((position, LeftOut(work.key, reason)))

    def _withdraw(self, refused: Sequence[TrainingImageId]) -> set[TrainingImageId]:
        """Take back what was removed by somebody else while it was on its way."""
        if refused:
            self.store.remove(list(refused))
        for one in refused:
            thumbnail_path(self.thumbnails, one).unlink(missing_ok=True)
        return set(refused)

    def _keep_thumbnail(self, image: DecodedImage) -> None:
        path = thumbnail_path(self.thumbnails, image.training_image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.thumbnail)


def payload(work: NewWork) -> dict[str, Any]:
    """What the index keeps beside the vectors."""
    return {
        KEY_SHA256: work.sha256,
        KEY_KEY: work.key,
        KEY_URI: work.uri,
        KEY_TITLE: work.title,
        KEY_LABELS: list(work.labels),
        KEY_DATA_SET: [work.data_set],
    }


def _removed(batch: Batch, refused: Collection[TrainingImageId]) -> list[tuple[int, LeftOut]]:
    works = [*((position, image.work) for position, image in batch.fresh), *batch.known]
    return [
        (position, LeftOut(work.key, REMOVED_CONTENT, REMOVED))
        for position, work in works
        if work.training_image_id in refused
    ]


def _position(entry: tuple[int, LeftOut]) -> int:
    return entry[0]
