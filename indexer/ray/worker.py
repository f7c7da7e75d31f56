"""What one Ray worker does: read, decode and embed parts of a source. It writes nothing.

A worker opens the source by itself and is told which rows to take, so that no file handle travels. What is indexed
already is only described, by workers that can reach the index. Whether a row counts as a point, a duplicate or removed
is the writer's to say.
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
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.ports import Float32Array, Models, VectorStore
from indexer.pipeline import BATCH_VIEWS, MAX_BATCH_IMAGES, batched
from indexer.reading import DecodedImage, ItemReader, ReadImage
from indexer.report import LeftOut
from indexer.sources.consent import OptOutList
from indexer.sources.item import Shard
from indexer.target import Target

RESULT = "result"
"""Column of a worker's answers: a pickled `Done` each. Only this program's own processes write it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a run has to know. part, parts: the share of the source's shards that this run takes.

    digest: of these shards, as whoever shares out the work sees them.
    """

    location: str
    manifest: str | None
    data_set: str
    opt_outs: OptOutList
    heed_signals: bool
    target: Target
    api_key: str | None
    choice: ProfileChoice
    device: str
    threads: int | None
    part: int
    parts: int
    digest: str


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a shard, from `start` to just before `stop`, or to its end where that is None."""

    shard: int
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A work with its thumbnail (WebP) and vectors; without them it was indexed already when the worker looked."""

    work: NewWork
    thumbnail: bytes = b""
    recall: Float32Array | None = None
    perceptual: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Rows from `start` on, one entry each. last: whether the part ends with them."""

    part: Part
    start: int
    rows: tuple[Embedded | LeftOut, ...]
    last: bool


class Worker:
    """A Ray actor: `__call__` takes rows of parts and yields pickled `Done`s."""

    def __init__(self, job: Job) -> None:
        from gmvaluator.models.multi_device import load_on_every_device
        from gmvaluator.models.process_setup import prepare_process

        self._shards = _same_shards(job)
        prepare_process()
        self._models: Models = load_on_every_device(job.choice, job.device, job.threads)
        self._store = _reachable_store(job)
        self._reader = ItemReader(job.data_set, self._models.prepare_work, job.opt_outs, job.heed_signals)
        self._size = max(1, min(MAX_BATCH_IMAGES, BATCH_VIEWS // self._models.identity.perceptual_views))

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for shard, start, stop in zip(batch["shard"], batch["start"], batch["stop"], strict=True):
            part = Part(int(shard), int(start), int(stop) if stop >= 0 else None)
            for done in self.take(part):
                yield {RESULT: np.array([pickle.dumps(done)], dtype=object)}

    def take(self, part: Part) -> Iterator[Done]:
        """Rows of a part in batches, the last of which may be empty."""
        count = None if part.stop is None else part.stop - part.start
        position = part.start
        for items in batched(islice(self._shards[part.shard].start(part.start), count), self._size):
            rows = self._rows([self._reader.read(item) for item in items])
            yield Done(part, position, tuple(rows), False)
            position += len(rows)
        yield Done(part, position, (), True)

    def _rows(self, reads: Sequence[ReadImage | LeftOut]) -> list[Embedded | LeftOut]:
        ids = {read.training_image_id for read in reads if isinstance(read, ReadImage)}
        known = self._store.existing(sorted(ids)) if self._store is not None else set()
        found = [self._prepared(read, known) for read in reads]
        fresh = [one for one in found if isinstance(one, DecodedImage)]
        vectors = iter(self._embed(fresh))
        return [next(vectors) if isinstance(one, DecodedImage) else one for one in found]

    def _prepared(self, read: ReadImage | LeftOut, known: set[TrainingImageId]) -> DecodedImage | Embedded | LeftOut:
        if isinstance(read, LeftOut):
            return read
        if read.training_image_id not in known:
            return self._reader.decode(read)
        described = self._reader.describe(read)
        return described if isinstance(described, LeftOut) else Embedded(described)

    def _embed(self, images: Sequence[DecodedImage]) -> list[Embedded | LeftOut]:
        """A batch that fails is halved until the image at fault stands alone."""
        if not images:
            return []
        try:
            rows = self._models.embed_works([image.inputs for image in images])
        except ModelFailed as error:
            if len(images) == 1:
                return [LeftOut(images[0].work.key, str(error))]
            half = len(images) // 2
            return self._embed(images[:half]) + self._embed(images[half:])
        return [
            Embedded(image.work, image.thumbnail, recall, perceptual)
            for image, recall, perceptual in zip(images, rows.recall, rows.perceptual, strict=True)
        ]


def _same_shards(job: Job) -> Sequence[Shard]:
    """Raises Conflict if they are others than when the work was shared out: they are known by their places."""
    from indexer.sources.opening import open_source

    source = open_source(job.location, job.manifest).part(job.part, job.parts)
    if source.digest != job.digest:
        raise Conflict(f"{job.location} changed while it was being indexed: give the same command again to go on")
    return source.shards


def _reachable_store(job: Job) -> VectorStore | None:
    """The index; None where a worker cannot reach it or may not, which embeds what is indexed already once more."""
    from gmvaluator.index.opening import open_store

    try:
        store = open_store(job.target.location, job.target.collection, api_key=job.api_key)
        store.info()
    except (Unavailable, PreconditionFailed):
        return None
    return store
