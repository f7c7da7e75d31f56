"""Reader -> decoder pool -> embedder -> writer: one shard after another, every queue bounded, every row counted.

Three threads of ours overlap: one reads and has a pool decode, the caller's embeds, one writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gmvaluator.catalogue.records import NewWork, Recorded
from gmvaluator.errors import ModelFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.index.schema import KEY_DATA_SET, KEY_KEY, KEY_LABELS, KEY_SHA256, KEY_TITLE, KEY_URI
from gmvaluator.ports import Float32Array, Models, Point, VectorStore
from indexer.counting import REMOVED, Counts, LeftOut
from indexer.flow import ahead, batched, ordered_map
from indexer.reading import DecodedImage, ItemReader, ReadImage
from indexer.sources.consent import NO_OPT_OUTS, OptOutList
from indexer.sources.item import Shard

BATCH_VIEWS = 64
"""Views embedded in one batch. `lite`'s take 600 KB each as model input, and some batches are in memory."""

MAX_BATCH_IMAGES = 32
WORKERS = 2
"""Threads that read and decode."""
BATCHES_AHEAD = 2
"""Batches ready for the models, and batches on their way to the index, at most."""

REMOVED_CONTENT = "it was removed from the index, and stays out"
REMOVED_KEY = "an image of this key was removed from the index: give another image another key"
"""Why an image under a tombstone is left out."""

Embedded = tuple[Float32Array, Float32Array] | ModelFailed
"""Recall vector and perceptual vectors of one image, or why there are none."""

Advance = Callable[[Counts, Sequence[LeftOut]], None]
_Done = tuple[Counts, list[LeftOut]]


class WorkRecorder(Protocol):
    """The catalogue, as far as writing needs it."""

    def tombstoned(self, sha256s: Collection[str]) -> set[str]: ...

    def removed_keys(self, data_set: str, keys: Collection[str]) -> set[str]: ...

    def record(self, batch: Sequence[NewWork]) -> Recorded: ...


class ShardLog(Protocol):
    """Where the progress of one shard is kept."""

    def advance(self, position: int, batch: Counts, left_out: Sequence[tuple[int, LeftOut]]) -> None:
        """Everything before `position` is dealt with for good. left_out: each row with its position."""


@dataclass(slots=True)
class _Batch:
    """Rows from `start` on. Every row is in one of the three lists."""

    start: int
    rows: int
    fresh: list[tuple[int, DecodedImage]] = field(default_factory=list)
    known: list[tuple[int, NewWork]] = field(default_factory=list)
    left_out: list[tuple[int, LeftOut]] = field(default_factory=list)


@dataclass
class Indexer:
    """Brings shards into one collection.

    A point is in the index before the catalogue learns of its work, and both before progress is noted: a run that was
    killed is taken up where its notes end, repeats at most the batches that were on their way, and nothing twice.
    """

    models: Models
    store: VectorStore
    catalogue: WorkRecorder
    thumbnails: Path
    data_set: str
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    _on_their_way: set[TrainingImageId] = field(default_factory=set)
    _refused: dict[TrainingImageId, str] = field(default_factory=dict)

    def run(
        self,
        shard: Shard,
        start: int,
        log: ShardLog,
        advance: Advance = lambda counts, left_out: None,  # noqa: ARG005
        stopping: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Index a shard from position `start` on; False if it was stopped before its end.

        advance: called with each batch's counts, and what it left out, once it is durable. Stops between batches once
        `stopping`.
        """
        self._on_their_way.clear()
        with ThreadPoolExecutor(WORKERS, "decode") as pool, ThreadPoolExecutor(1, "write") as writer:
            batches = ahead(partial(self._read, shard, start, pool), BATCHES_AHEAD)
            written: deque[Future[_Done]] = deque()
            try:
                for batch in batches:
                    vectors = self._embed([image for _, image in batch.fresh])
                    written.append(writer.submit(self._write, batch, vectors, log))
                    self._settle(written, advance, BATCHES_AHEAD)
                    if stopping():
                        return False
                return True
            finally:
                batches.close()
                self._settle(written, advance, 0)

    def _settle(self, written: deque[Future[_Done]], advance: Advance, left: int) -> None:
        while len(written) > left:
            advance(*written.popleft().result())

    def _read(self, shard: Shard, start: int, pool: ThreadPoolExecutor) -> Generator[_Batch, None, None]:
        reader = ItemReader(self.data_set, self.models.prepare_work, self.opt_outs, self.heed_signals)
        size = max(1, min(MAX_BATCH_IMAGES, BATCH_VIEWS // self.models.identity.perceptual_views))
        reads = ordered_map(pool, reader.read, shard.start(start), window=2 * size)
        position = start
        for rows in batched(reads, size):
            yield self._sorted(_Batch(position, len(rows)), rows, reader, pool)
            position += len(rows)

    def _sorted(
        self, batch: _Batch, rows: list[ReadImage | LeftOut], reader: ItemReader, pool: ThreadPoolExecutor
    ) -> _Batch:
        """Decode what is new, describe what is indexed already, and say why for the rest."""
        images, removed = self._without_removed(batch, rows)
        present = self._present({image.training_image_id for _, image in images})
        fresh: dict[TrainingImageId, tuple[int, ReadImage]] = {}
        for position, image in images:
            if image.training_image_id not in present:
                fresh.setdefault(image.training_image_id, (position, image))
        decoded = pool.map(reader.decode, [image for _, image in fresh.values()])
        for (position, _), result in zip(fresh.values(), decoded, strict=True):
            _into(batch.fresh, position, result, batch)
        first = {position for position, _ in fresh.values()}
        for position, image in images:
            if position not in first:
                _into(batch.known, position, reader.describe(image), batch)
        batch.left_out.extend(removed)
        self._on_their_way.update(image.training_image_id for _, image in batch.fresh)
        return batch

    def _without_removed(
        self, batch: _Batch, rows: list[ReadImage | LeftOut]
    ) -> tuple[list[tuple[int, ReadImage]], list[tuple[int, LeftOut]]]:
        read = [row for row in rows if isinstance(row, ReadImage)]
        buried = self.catalogue.tombstoned({row.sha256 for row in read})
        keys = self.catalogue.removed_keys(self.data_set, {row.item.key for row in read})
        images, left_out = [], []
        for position, row in enumerate(rows, start=batch.start):
            if isinstance(row, LeftOut):
                left_out.append((position, row))
            elif row.sha256 in buried or row.item.key in keys:
                reason = REMOVED_CONTENT if row.sha256 in buried else REMOVED_KEY
                left_out.append((position, LeftOut(row.item.key, reason, REMOVED)))
            else:
                images.append((position, row))
        return images, left_out

    def _present(self, ids: set[TrainingImageId]) -> set[TrainingImageId]:
        """Those of `ids` that are indexed or on their way. In this order: what leaves the one is in the other."""
        coming = ids & self._on_their_way
        return coming | self.store.existing(sorted(ids - coming))

    def _embed(self, images: list[DecodedImage]) -> list[Embedded]:
        """One row an image; a batch that fails is halved until the image at fault stands alone."""
        if not images:
            return []
        try:
            rows = self.models.embed_works([image.inputs for image in images])
        except ModelFailed as error:
            if len(images) == 1:
                return [error]
            half = len(images) // 2
            return self._embed(images[:half]) + self._embed(images[half:])
        return list(zip(rows.recall, rows.perceptual, strict=True))

    def _write(self, batch: _Batch, vectors: Sequence[Embedded], log: ShardLog) -> _Done:
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
        self._on_their_way.difference_update(image.training_image_id for _, image in batch.fresh)
        batch.left_out.extend(_removed(batch, refused))
        points = [point for point in points if point.training_image_id not in refused]
        known = [work for work in known if work.training_image_id not in refused]
        counts = Counts.of(batch.rows, len(points), len(known), (row for _, row in batch.left_out))
        left_out = sorted(batch.left_out, key=_position)
        log.advance(batch.start + batch.rows, counts, left_out)
        return counts, [row for _, row in left_out]

    def _known(self, batch: _Batch) -> Iterator[NewWork]:
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


def _into(wanted: list[Any], position: int, result: object, batch: _Batch) -> None:
    """A result where it belongs: among the wanted, or among what is left out."""
    if isinstance(result, LeftOut):
        batch.left_out.append((position, result))
    else:
        wanted.append((position, result))


def _removed(batch: _Batch, refused: Collection[TrainingImageId]) -> list[tuple[int, LeftOut]]:
    works = [*((position, image.work) for position, image in batch.fresh), *batch.known]
    return [
        (position, LeftOut(work.key, REMOVED_CONTENT, REMOVED))
        for position, work in works
        if work.training_image_id in refused
    ]


def _position(entry: tuple[int, LeftOut]) -> int:
    return entry[0]
