"""Reader -> decoder pool -> embedder -> writer: one shard after another, every queue bounded, every row counted.

Three threads of ours overlap: one reads and has a pool decode, the caller's embeds, one writes.

Bounded flows between threads: order is kept, nothing runs further ahead than it is told, and closing stops it.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from gmvaluator.errors import ModelFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.ports import Models, VectorStore
from indexer.reading import DecodedImage, ItemReader, ReadImage
from indexer.report import REMOVED, Counts, LeftOut
from indexer.sources.consent import NO_OPT_OUTS, OptOutList
from indexer.sources.item import Shard
from indexer.writing import Batch, Embedded, ShardLog, WorkRecorder, Writer, Written

In = TypeVar("In")
Out = TypeVar("Out")

_POLL_S = 0.1


def ordered_map(
    pool: Executor, function: Callable[[In], Out], items: Iterable[In], window: int
) -> Generator[Out, None, None]:
    """`map` on a pool that keeps order and never has more than `window` items in hand."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class _Maker(threading.Thread, Generic[Out]):
    """Makes items in a thread of its own, at most `size` before they are asked for."""

    def __init__(self, items: Callable[[], Generator[Out, None, None]], size: int) -> None:
        super().__init__(name="ahead", daemon=True)
        self._items = items
        self._made: queue.Queue[_Made[Out]] = queue.Queue(size)
        self._closing = threading.Event()

    def run(self) -> None:
        source = self._items()
        try:
            for item in source:
                self._put(_Made(item=(item,)))
                if self._closing.is_set():
                    return
            self._put(_Made())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
            self._put(_Made(error=error))
        finally:
            source.close()

    def _put(self, made: _Made[Out]) -> None:
        while not self._closing.is_set():
            try:
                self._made.put(made, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def get(self) -> _Made[Out]:
        return self._made.get()

    def close(self) -> None:
        self._closing.set()
        self.join()


@dataclass(frozen=True, slots=True)
class _Made(Generic[Out]):
    """An item, or the end, or why there is none."""

    item: tuple[Out, ...] = ()
    error: BaseException | None = None


def ahead(items: Callable[[], Generator[Out, None, None]], size: int) -> Generator[Out, None, None]:
    """Items made in a thread of their own, at most `size` before they are asked for.

    An exception there is raised here. Closing this generator closes that one, after the item it is making.
    """
    maker = _Maker(items, size)
    maker.start()
    try:
        while True:
            made = maker.get()
            if made.error is not None:
                raise made.error
            if not made.item:
                return
            yield made.item[0]
    finally:
        maker.close()


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


BATCH_VIEWS = 64
"""Views embedded in one batch. `lite`'s take 600 KB each as model input, and some batches are in memory."""

MAX_BATCH_IMAGES = 32
WORKERS = 2
"""Threads that read and decode."""
BATCHES_AHEAD = 2
"""Batches ready for the models, and batches on their way to the index, at most."""

Advance = Callable[[Counts, Sequence[LeftOut]], None]


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
    _failed: bool = False
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer(self.store, self.catalogue, self.thumbnails, self.data_set)

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
        `stopping`. Once a batch could not be written, none after it is: progress ends before it.
        """
        self._on_their_way.clear()
        self._failed = False
        with ThreadPoolExecutor(WORKERS, "decode") as pool, ThreadPoolExecutor(1, "write") as writer:
            batches = ahead(partial(self._read, shard, start, pool), BATCHES_AHEAD)
            written: deque[Future[Written | None]] = deque()
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

    def _write(self, batch: Batch, vectors: Sequence[Embedded], log: ShardLog) -> Written | None:
        """None without writing if a batch before this one failed."""
        if self._failed:
            return None
        try:
            written = self._writer.write(batch, vectors, log)
        except BaseException:
            self._failed = True
            raise
        self._on_their_way.difference_update(image.training_image_id for _, image in batch.fresh)
        return written

    def _settle(self, written: deque[Future[Written | None]], advance: Advance, left: int) -> None:
        while len(written) > left:
            done = written.popleft().result()
            if done is not None:
                advance(*done)

    def _read(self, shard: Shard, start: int, pool: ThreadPoolExecutor) -> Generator[Batch, None, None]:
        reader = ItemReader(self.data_set, self.models.prepare_work, self.opt_outs, self.heed_signals)
        size = max(1, min(MAX_BATCH_IMAGES, BATCH_VIEWS // self.models.identity.perceptual_views))
        reads = ordered_map(pool, reader.read, shard.start(start), window=2 * size)
        position = start
        for rows in batched(reads, size):
            yield self._sorted(Batch(position, len(rows)), rows, reader, pool)
            position += len(rows)

    def _sorted(
        self, batch: Batch, rows: list[ReadImage | LeftOut], reader: ItemReader, pool: ThreadPoolExecutor
    ) -> Batch:
        """Decode what is new, describe what is indexed already, and say why for the rest."""
        read = [row for row in rows if isinstance(row, ReadImage)]
        reasons = self._writer.removed((row.sha256, row.item.key) for row in read)
        images, removed = [], []
        for position, row in enumerate(rows, start=batch.start):
            if isinstance(row, LeftOut):
                removed.append((position, row))
            elif (reason := reasons.get((row.sha256, row.item.key))) is not None:
                removed.append((position, LeftOut(row.item.key, reason, REMOVED)))
            else:
                images.append((position, row))
        present = self._present({image.training_image_id for _, image in images})
        fresh: dict[TrainingImageId, tuple[int, ReadImage]] = {}
        for position, image in images:
            if image.training_image_id not in present:
                fresh.setdefault(image.training_image_id, (position, image))
        decoded = pool.map(reader.decode, [image for _, image in fresh.values()])
        for (position, _), result in zip(fresh.values(), decoded, strict=True):
            _into(batch.fresh, position, result, batch)
        first = {position for position, _ in fresh.values()}
        self._add_copies(batch, [one for one in images if one[0] not in first], present, reader)
        batch.left_out.extend(removed)
        self._on_their_way.update(image.training_image_id for _, image in batch.fresh)
        return batch

    def _add_copies(
        self, batch: Batch, images: list[tuple[int, ReadImage]], present: set[TrainingImageId], reader: ItemReader
    ) -> None:
        """Describe what is indexed or comes with this batch; where the first copy could not be used, try the next."""
        coming = present | {image.training_image_id for _, image in batch.fresh}
        for position, image in images:
            if image.training_image_id in coming:
                _into(batch.known, position, reader.describe(image), batch)
            elif _into(batch.fresh, position, reader.decode(image), batch):
                coming.add(image.training_image_id)

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


def _into(wanted: list[Any], position: int, result: object, batch: Batch) -> bool:
    """A result where it belongs: among the wanted, or among what is left out; whether it is wanted."""
    if isinstance(result, LeftOut):
        batch.left_out.append((position, result))
        return False
    wanted.append((position, result))
    return True
