"""The indexing pipeline: reader -> decoder pool -> embedder -> writer, one shard after another.

Three threads overlap: one reads and has a pool decode, the caller's thread embeds, one writes. Every queue is bounded,
so that a slow step holds the ones before it back, and every row is counted.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from gmvaluator.catalogue.tombstones import Record
from gmvaluator.errors import InvalidManifest, ModelFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.ports import Models, VectorStore
from gmvaluator.profile import ProfileIdentity
from gmvaluator.training_images import DEFAULT_LIMITS, TrainingLimits
from indexer.opt_outs import NO_OPT_OUTS, OptOutList
from indexer.reading import DecodedImage, ItemReader, ReadImage
from indexer.report import REMOVED, Counts, LeftOut
from indexer.sources.item import Shard
from indexer.writing import Batch, Candidate, ImageVectors, ShardLog, WorkRecorder, Writer, Written, removal_reasons

In = TypeVar("In")
Out = TypeVar("Out")

BATCH_VIEWS = 64
"""Views embedded in one batch. As model input a view of `lite` takes 600 KB, and several batches are in memory."""

MAX_BATCH_IMAGES = 32
"""Maximum number of images in one batch, however few views each has."""

WORKERS = 2
"""Threads that read and decode."""

BATCHES_AHEAD = 2
"""Batches that wait for the models, and batches that wait to be written; each at most this many."""

READ_BYTES = 256 * 1024 * 1024
"""Bytes of files that were read and wait to be decoded, beyond which no more files are read."""

UNREAD = 2 * WORKERS
"""Files that are being read, or wait for a thread to read them, at most."""

READERS = "decode"
"""Prefix of the names of the threads that read and decode."""

STOP_WAIT_S = 10.0
"""Seconds that a stop waits for a source that does not answer, such as a file system behind a broken network."""

_POLL_S = 0.1
"""Seconds after which a producer that waits for room checks whether its consumer has gone."""

Advance = Callable[[Counts, Sequence[LeftOut]], None]
"""Called once per batch that is durable, with its counts and the rows that it left out."""


def batch_images(identity: ProfileIdentity) -> int:
    """Return the number of images in one batch for models of this profile."""
    return max(1, min(MAX_BATCH_IMAGES, BATCH_VIEWS // identity.perceptual_views))


@dataclass
class Indexer:
    """The indexing pipeline of shards of images into one collection.

    A point is in the index before the catalogue records its work, and both before progress is recorded. A run that was
    killed resumes at the recorded position: it repeats at most the batches in flight, and indexes nothing twice.
    """

    models: Models
    store: VectorStore
    catalogue: WorkRecorder
    thumbnails: Path
    data_set: str
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    limits: TrainingLimits = DEFAULT_LIMITS
    _in_flight: set[TrainingImageId] = field(default_factory=set)
    """New works of batches that are read and not written yet."""
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
        """Index a shard from row `start` on; return False if it was stopped before its end.

        Stops between batches once `stopping` returns True. If a batch cannot be written, no later one is: progress
        ends before it, and the error is raised.
        """
        self._in_flight.clear()
        self._failed = False
        pool, patience = ThreadPoolExecutor(WORKERS, READERS), _Patience(stopping)
        with ThreadPoolExecutor(1, "write") as writer:
            batches = ahead(partial(self._read, shard, start, pool), BATCHES_AHEAD, patience.is_over)
            written: deque[Future[Written | None]] = deque()
            try:
                for batch in batches:
                    vectors = embed_images(self.models, [image for _, image in batch.fresh])
                    written.append(writer.submit(self._write, batch, vectors, log))
                    self._settle(written, advance, BATCHES_AHEAD)
                    if stopping():
                        return False
                return not patience.is_over()
            finally:
                batches.close()
                # A read that does not return must not hold up a stop.
                pool.shutdown(wait=not patience.is_over(), cancel_futures=True)
                self._settle(written, advance, 0)

    def _read(self, shard: Shard, start: int, pool: ThreadPoolExecutor) -> Generator[Batch, None, None]:
        identity = self.models.identity
        options = (self.opt_outs, self.heed_signals, self.limits, identity.check_size)
        reader = ItemReader(self.data_set, self.models.prepare_work, *options)
        size = batch_images(identity)
        # The window covers two batches, so that the pool reads the next one while this one is classified.
        reads = ordered_map(pool, reader.read, shard.start(start), 2 * size, read_bytes, READ_BYTES)
        position = start
        for rows in batched(reads, size, read_bytes, READ_BYTES):
            yield self._classify(Batch(position, len(rows)), rows, reader, pool)
            position += len(rows)

    def _classify(
        self, batch: Batch, rows: list[ReadImage | LeftOut], reader: ItemReader, pool: ThreadPoolExecutor
    ) -> Batch:
        """Decode new images, describe those that are indexed already, and give a reason for every row left out."""
        images, left_out = self._without_removed(batch.start, rows)
        present = self._present({image.training_image_id for _, image in images})
        firsts: dict[TrainingImageId, tuple[int, ReadImage]] = {}
        for position, image in images:
            if image.training_image_id not in present:
                firsts.setdefault(image.training_image_id, (position, image))
        decoded = pool.map(reader.decode, [image for _, image in firsts.values()])
        for (position, _), result in zip(firsts.values(), decoded, strict=True):
            _append(batch.fresh, position, result, batch)
        decoded_positions = {position for position, _ in firsts.values()}
        others = [(position, image) for position, image in images if position not in decoded_positions]
        self._add_duplicates(batch, others, present, reader)
        batch.left_out.extend(left_out)
        self._in_flight.update(image.training_image_id for _, image in batch.fresh)
        return batch

    def _without_removed(
        self, start: int, rows: list[ReadImage | LeftOut]
    ) -> tuple[list[tuple[int, ReadImage]], list[tuple[int, LeftOut]]]:
        """Split rows, with their positions, into images and rows to leave out, among them works removed before."""
        read = [row for row in rows if isinstance(row, ReadImage)]
        reasons = removal_reasons(self.catalogue, (self._candidate(row) for row in read))
        images: list[tuple[int, ReadImage]] = []
        left_out: list[tuple[int, LeftOut]] = []
        for position, row in enumerate(rows, start=start):
            if isinstance(row, LeftOut):
                left_out.append((position, row))
            elif (reason := reasons.get(self._candidate(row))) is not None:
                left_out.append((position, LeftOut(row.item.key, reason, REMOVED)))
            else:
                images.append((position, row))
        return images, left_out

    def _candidate(self, image: ReadImage) -> Candidate:
        item = image.item
        try:
            owner = image.owner
        except InvalidManifest:
            owner = None  # the decoder rejects the row with this reason
        return Candidate(image.sha256, Record(self.data_set, item.key, item.uri, item.url), owner)

    def _add_duplicates(
        self, batch: Batch, images: list[tuple[int, ReadImage]], present: set[TrainingImageId], reader: ItemReader
    ) -> None:
        """Describe images that are indexed or new in this batch.

        If the first of several rows with the same bytes could not be used, its row may be at fault: try the next.
        """
        known = present | {image.training_image_id for _, image in batch.fresh}
        for position, image in images:
            if image.training_image_id in known:
                _append(batch.known, position, reader.describe(image), batch)
            elif _append(batch.fresh, position, reader.decode(image), batch):
                known.add(image.training_image_id)

    def _present(self, ids: set[TrainingImageId]) -> set[TrainingImageId]:
        """Return those of `ids` that are indexed or in flight."""
        # In this order: a work leaves `_in_flight` only after it is in the index, so it is seen in one of the two.
        in_flight = ids & self._in_flight
        return in_flight | self.store.existing(sorted(ids - in_flight))

    def _write(self, batch: Batch, vectors: Sequence[ImageVectors], log: ShardLog) -> Written | None:
        """Write a batch; return None, without writing, if a batch before this one failed."""
        # Progress is a single position: a later batch would move it past the rows of the failed one.
        if self._failed:
            return None
        try:
            written = self._writer.write(batch, vectors, log)
        except BaseException:
            self._failed = True
            raise
        self._in_flight.difference_update(image.training_image_id for _, image in batch.fresh)
        return written

    def _settle(self, written: deque[Future[Written | None]], advance: Advance, left: int) -> None:
        """Wait until at most `left` batches are being written, and report the others."""
        while len(written) > left:
            result = written.popleft().result()
            if result is not None:
                advance(*result)


class _Patience:
    """How long a stop waits for a source that does not answer: a batch is read within seconds, or never."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._since: float | None = None

    def is_over(self) -> bool:
        """Return whether the stop was asked for at least `STOP_WAIT_S` ago, as far as this was called since."""
        if not self._stopping():
            return False
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since >= STOP_WAIT_S


def embed_images(models: Models, images: Sequence[DecodedImage]) -> list[ImageVectors]:
    """Return each image's vectors or ModelFailed; a batch that fails is halved until the image at fault is alone."""
    if not images:
        return []
    try:
        rows = models.embed_works([image.inputs for image in images])
    except ModelFailed as error:
        if len(images) == 1:
            return [error]
        half = len(images) // 2
        return embed_images(models, images[:half]) + embed_images(models, images[half:])
    return list(zip(rows.recall, rows.perceptual, strict=True))


def _append(rows: list[Any], position: int, result: object, batch: Batch) -> bool:
    """Append a result to `rows`, or to what the batch leaves out; return whether it is in `rows`."""
    if isinstance(result, LeftOut):
        batch.left_out.append((position, result))
        return False
    rows.append((position, result))
    return True


def _weightless(_: object) -> int:
    return 0


def batched(
    items: Iterable[In], size: int, weigh: Callable[[In], int] = _weightless, max_weight: int = 0
) -> Iterator[list[In]]:
    """Yield lists of `size` items, or of fewer once they weigh `max_weight`; the last may be shorter."""
    batch, weight = [], 0
    for item in items:
        batch.append(item)
        weight += weigh(item)
        if len(batch) >= size or weight > max_weight:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def ordered_map(
    pool: Executor,
    function: Callable[[In], Out],
    items: Iterable[In],
    window: int,
    weigh: Callable[[Out], int] = _weightless,
    max_weight: int = 0,
) -> Generator[Out, None, None]:
    """Map items on a pool, in order, with at most `window` items submitted and not yet yielded.

    max_weight: if given, nothing more is submitted while results that are not yet yielded weigh more, or while more
    than `UNREAD` are still to come, whose weight is unknown.
    """
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while len(waiting) >= window or (max_weight and _is_heavy(waiting, weigh, max_weight)):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _is_heavy(waiting: Collection[Future[Out]], weigh: Callable[[Out], int], max_weight: int) -> bool:
    done = [future for future in waiting if future.done()]
    weight = sum(weigh(future.result()) for future in done if future.exception() is None)
    return weight > max_weight or len(waiting) - len(done) > UNREAD


def read_bytes(row: ReadImage | LeftOut) -> int:
    """Return the bytes of a file that was read."""
    return len(row.data) if isinstance(row, ReadImage) else 0


def ahead(
    items: Callable[[], Generator[Out, None, None]], size: int, give_up: Callable[[], bool] = lambda: False
) -> Generator[Out, None, None]:
    """Yield items that a thread produces, at most `size` of them before they are consumed.

    An exception of the producer is raised here. Closing this generator closes the producer's, after its current item.
    give_up: whether to wait no longer for an item, and to leave the producer alone.
    """
    producer = _Producer(items, size)
    producer.start()
    try:
        while True:
            produced = producer.get(give_up)
            if produced is None:
                return
            if produced.error is not None:
                raise produced.error
            if not produced.item:
                return
            yield produced.item[0]
    finally:
        producer.close(give_up)


@dataclass(frozen=True, slots=True)
class _Produced(Generic[Out]):
    """An item (in a tuple of one), an error, or, with neither, the end."""

    item: tuple[Out, ...] = ()
    error: BaseException | None = None


class _Producer(threading.Thread, Generic[Out]):
    """A thread that runs a generator and holds at most `size` of its items in a queue."""

    def __init__(self, items: Callable[[], Generator[Out, None, None]], size: int) -> None:
        super().__init__(name="ahead", daemon=True)
        self._items = items
        self._queue: queue.Queue[_Produced[Out]] = queue.Queue(size)
        self._closing = threading.Event()

    def run(self) -> None:
        """Implement `threading.Thread`."""
        source = self._items()
        try:
            for item in source:
                self._put(_Produced(item=(item,)))
                if self._closing.is_set():
                    return
            self._put(_Produced())
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._put(_Produced(error=error))
        finally:
            # Here, as a generator must be closed by the thread that runs it.
            source.close()

    def get(self, give_up: Callable[[], bool]) -> _Produced[Out] | None:
        """Wait for the next item, error or end; return None once `give_up` says so."""
        while True:
            try:
                return self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if give_up():
                    return None

    def close(self, give_up: Callable[[], bool]) -> None:
        """Stop the producer and wait for its thread, unless `give_up` says not to."""
        self._closing.set()
        while self.is_alive() and not give_up():
            self.join(_POLL_S)

    def _put(self, produced: _Produced[Out]) -> None:
        # A plain `put` would block forever once the consumer has gone with the queue full.
        while not self._closing.is_set():
            try:
                self._queue.put(produced, timeout=_POLL_S)
            except queue.Full:
                continue
            return
