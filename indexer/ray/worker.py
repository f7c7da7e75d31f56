"""A Ray worker: reads, decodes and embeds ranges of a source's rows, and writes nothing.

A worker opens the source itself and receives row numbers, so that no file handle has to be sent. Works that are indexed
already are only described, if the worker can reach the index. The writer decides whether a row counts as a point, a
duplicate or a removed work.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from gmvaluator.catalogue.records import NewWork
from gmvaluator.errors import Conflict, ModelFailed, PreconditionFailed, Unavailable
from gmvaluator.ids import TrainingImageId
from gmvaluator.ports import Float32Array, Models, VectorStore
from indexer.job import IndexJob, ModelRuntime
from indexer.pipeline import READ_BYTES, batch_images, batched, embed_images, read_bytes
from indexer.reading import DecodedImage, ItemReader, ReadImage
from indexer.report import LeftOut
from indexer.sources.item import Shard
from indexer.target import Target
from indexer.writing import ImageVectors

RESULT = "result"
"""Column of a worker's results: pickled `RangeBatch`es. Only this program's own processes write it."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """The inputs of every worker of a run.

    target: without the database's password. api_key: of the Qdrant server, as other machines do not have the driver's
    environment. digest: of the job's shards, as the driver sees them.
    """

    job: IndexJob
    target: Target
    runtime: ModelRuntime
    api_key: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows of shard number `shard`, from `start` to just before `stop`; None stands for the shard's end."""

    shard: int
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class EmbeddedWork:
    """A work with its thumbnail (WebP), vectors, and local features as text.

    recall: (D,). perceptual: (V, P). Both are None if the work was indexed already when the worker looked it up.
    """

    work: NewWork
    thumbnail: bytes = b""
    recall: Float32Array | None = None
    perceptual: Float32Array | None = None
    first_of_several: bool = False
    local_features: str | None = None


@dataclass(frozen=True, slots=True)
class RangeBatch:
    """Results of a range's rows from `start` on, one per row. last: whether the range ends with them."""

    row_range: RowRange
    start: int
    rows: tuple[EmbeddedWork | LeftOut, ...]
    last: bool


class Worker:
    """A Ray actor: `__call__` takes row ranges and yields pickled `RangeBatch`es."""

    def __init__(self, job: WorkerJob) -> None:
        # Imported here, as the driver imports this module and needs no torch.
        from gmvaluator.models.multi_device import load_on_every_device
        from gmvaluator.models.process_setup import prepare_process

        self._shards = _same_shards(job)
        prepare_process()
        runtime = job.runtime
        self._models: Models = load_on_every_device(runtime.choice, runtime.device, runtime.threads)
        self._store = _reachable_store(job)
        check_size = self._models.identity.check_size
        options = (job.job.opt_outs, job.job.heed_signals, job.job.limits, check_size)
        self._reader = ItemReader(job.job.data_set, self._models.prepare_work, *options)
        self._size = batch_images(self._models.identity)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Implement Ray Data's `map_batches`: columns `shard`, `start`, `stop` (-1 for the end) of equal length."""
        for shard, start, stop in zip(batch["shard"], batch["start"], batch["stop"], strict=True):
            row_range = RowRange(int(shard), int(start), int(stop) if stop >= 0 else None)
            for result in self.embed(row_range):
                yield {RESULT: np.array([pickle.dumps(result)], dtype=object)}

    def embed(self, row_range: RowRange) -> Iterator[RangeBatch]:
        """Yield the results of a range in batches; the last batch may be empty."""
        count = None if row_range.stop is None else row_range.stop - row_range.start
        position = row_range.start
        items = islice(self._shards[row_range.shard].start(row_range.start), count)
        for reads in batched(map(self._reader.read, items), self._size, read_bytes, READ_BYTES):
            rows = self._results(reads)
            yield RangeBatch(row_range, position, tuple(rows), False)
            position += len(rows)
        # An empty batch marks the end, as the number of rows of a range may be unknown before it is read.
        yield RangeBatch(row_range, position, (), True)

    def _results(self, reads: Sequence[ReadImage | LeftOut]) -> list[EmbeddedWork | LeftOut]:
        ids = {read.training_image_id for read in reads if isinstance(read, ReadImage)}
        known = self._store.existing(sorted(ids)) if self._store is not None else set()
        prepared = [self._prepare(read, known) for read in reads]
        images = [row for row in prepared if isinstance(row, DecodedImage)]
        embedded = map(_embedded, images, embed_images(self._models, images))
        return [next(embedded) if isinstance(row, DecodedImage) else row for row in prepared]

    def _prepare(self, read: ReadImage | LeftOut, known: set[TrainingImageId]) -> DecodedImage | EmbeddedWork | LeftOut:
        if isinstance(read, LeftOut):
            return read
        if read.training_image_id not in known:
            return self._reader.decode(read)
        described = self._reader.describe(read)
        return described if isinstance(described, LeftOut) else EmbeddedWork(described)


def _embedded(image: DecodedImage, vectors: ImageVectors) -> EmbeddedWork | LeftOut:
    if isinstance(vectors, ModelFailed):
        return LeftOut(image.work.key, str(vectors))
    return EmbeddedWork(image.work, image.thumbnail, *vectors, image.first_of_several, image.local_features)


def _same_shards(job: WorkerJob) -> Sequence[Shard]:
    """Open the source's shards. Raises Conflict if they are not those that the driver saw.

    Ranges name shards by their position in the source, which a changed source would shift.
    """
    from indexer.sources.opening import open_source

    source = job.job.partition.select(open_source(job.job.location, job.job.manifest))
    if source.digest != job.digest:
        raise Conflict(f"{job.job.location} changed while it was being indexed: give the same command again to go on")
    return source.shards


def _reachable_store(job: WorkerJob) -> VectorStore | None:
    """Open the index; return None if this worker cannot reach it or has no access.

    Without the index a worker embeds images again that are indexed already, and the writer discards their vectors.
    """
    from gmvaluator.index.opening import open_store

    try:
        store = open_store(job.target.location, job.target.collection, api_key=job.api_key)
        store.info()
    except (Unavailable, PreconditionFailed):
        return None
    return store
