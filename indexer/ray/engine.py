"""The driver of `index add --engine ray`: workers read, decode and embed; this process writes each shard in order.

Counts, progress, resuming and consent are the same as with threads, because the same `Writer` writes the results. One
writer is enough: it writes thousands of points per second, while a worker embeds tens or hundreds of images.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gmvaluator.errors import GmvaluatorError, IndexFailed, PreconditionFailed, Unavailable
from indexer.pipeline import Advance
from indexer.ray.worker import RESULT, EmbeddedWork, RangeBatch, RowRange, Worker, WorkerJob
from indexer.reading import DecodedImage
from indexer.report import REMOVED, LeftOut
from indexer.sources.item import Shard
from indexer.writing import Batch, Candidate, ImageVectors, ShardLog, Writer, removal_reasons

RANGE_ROWS = 512
"""Rows of one range, where a shard's rows can be counted; a shard of unknown length is one range."""

_BLOCK_BYTES = 1024 * 1024
"""Target size in bytes of the blocks in which results are sent; small, so that progress is recorded often."""

_STARTS = 3
"""Attempts to start or reach a cluster."""

_ADDRESS = "RAY_ADDRESS"
_NO_LONGER_INDEXED = "it left the index while it was read: run the same command again"


@dataclass(frozen=True, slots=True)
class UnfinishedShard:
    """A shard with rows left to index.

    number: its index among the shards that the workers open. position: the first row to index. finish: called once
    every row is written.
    """

    number: int
    shard: Shard
    position: int
    log: ShardLog
    finish: Callable[[], None]


def index_with_ray(
    job: WorkerJob,
    shards: Sequence[UnfinishedShard],
    writer: Writer,
    advance: Advance,
    stopping: Callable[[], bool],
) -> bool:
    """Index the remaining rows of `shards`; return False if it was stopped before the end.

    Raises PreconditionFailed if ray is not installed or the index cannot be reached from its workers, IndexFailed if a
    worker failed.
    """
    if not shards:
        return True
    ranges = [row_range for shard in shards for row_range in row_ranges(shard)]
    ordered = OrderedWriter.for_shards(shards, writer, advance)
    with _cluster() as ray:
        on_gpu = job.runtime.device != "cpu"
        resources = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        available = max(1, int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1)))
        concurrency = min(job.runtime.ray_workers or available, len(ranges))
        rows = [_as_row(row_range) for row_range in ranges]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker, fn_constructor_args=(job,), batch_size=1, concurrency=concurrency, **resources
        )
        with _translated(ray):
            for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
                for result in batch[RESULT]:
                    ordered.add(pickle.loads(result))  # noqa: S301 - of our own workers
                    if stopping():
                        return False
    return True


def row_ranges(unfinished: UnfinishedShard) -> Iterator[RowRange]:
    """Yield the remaining rows of a shard as ranges for the workers."""
    number, position, rows = unfinished.number, unfinished.position, unfinished.shard.rows
    if rows is None:
        yield RowRange(number, position, None)
        return
    # At least one range, even if no row is left: its end is what finishes the shard.
    for start in range(position, max(rows, position + 1), RANGE_ROWS):
        last = start + RANGE_ROWS >= rows
        yield RowRange(number, start, None if last else start + RANGE_ROWS)


def check_index_shared(embedded: bool) -> None:
    """Raise PreconditionFailed if the index is embedded, and so on this machine alone, and Ray runs on a cluster."""
    if embedded and os.environ.get(_ADDRESS):
        raise PreconditionFailed(
            f"{_ADDRESS} names a cluster, and an embedded index is one machine's: give --index URL"
        )


@contextmanager
def _cluster() -> Iterator[Any]:
    """Connect to the cluster at RAY_ADDRESS, or run one on this machine until the exit. Raises PreconditionFailed."""
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise PreconditionFailed(f"ray is not installed ({error}): pip install 'gmvaluator[ray]'") from error
    address = os.environ.get(_ADDRESS) or None
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    start_ray(ray, address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = _BLOCK_BYTES
    context.enable_progress_bars = False
    # Results that are early wait in Ray's store, which spills to disk and holds workers back, and not in our memory.
    context.execution_options.preserve_order = True
    try:
        yield ray
    finally:
        ray.shutdown()


def start_ray(ray: Any, **options: Any) -> None:
    """Start or reach a cluster, in at most `_STARTS` attempts. Raises Unavailable."""
    for attempts_left in reversed(range(_STARTS)):
        try:
            ray.init(**options)
        except Exception as error:
            # On a busy machine a new cluster may not be up within the 30 s that Ray waits for it.
            ray.shutdown()
            if not attempts_left:
                raise Unavailable(f"ray cannot be reached or started, try again: {error}") from error
        else:
            return


@contextmanager
def _translated(ray: Any) -> Iterator[None]:
    """Raise a worker's own GmvaluatorError as it is, and every other error of Ray as IndexFailed."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GmvaluatorError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, GmvaluatorError):
            raise cause from error
        raise IndexFailed(f"a worker of ray failed, run the same command again to go on: {error}") from error


def _as_row(row_range: RowRange) -> dict[str, int]:
    """Return a range as a row of Ray Data; -1 stands for the shard's end."""
    stop = -1 if row_range.stop is None else row_range.stop
    return {"shard": row_range.shard, "start": row_range.start, "stop": stop}


@dataclass(slots=True)
class _PendingShard:
    """A shard being written: the next row to write, and the batches that arrived before their turn.

    early: batches by first row and whether they end their range.
    """

    shard: UnfinishedShard
    position: int
    early: dict[tuple[int, bool], RangeBatch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderedWriter:
    """A writer of results in the order of each shard's rows.

    Progress is one position per shard, before which every row is done: rows out of order would make it false.
    """

    shards: dict[int, _PendingShard]
    writer: Writer
    advance: Advance

    @classmethod
    def for_shards(cls, shards: Sequence[UnfinishedShard], writer: Writer, advance: Advance) -> OrderedWriter:
        """Return a writer of these shards, each from its position on."""
        return cls({shard.number: _PendingShard(shard, shard.position) for shard in shards}, writer, advance)

    def add(self, batch: RangeBatch) -> None:
        """Accept a batch in any order; write it, and what it was holding up, once all rows before it are written."""
        pending = self.shards[batch.row_range.shard]
        pending.early[batch.start, batch.last] = batch
        while True:
            if (ready := pending.early.pop((pending.position, False), None)) is not None:
                self._write(pending, ready)
            elif (end := pending.early.pop((pending.position, True), None)) is not None:
                if end.row_range.stop is None:
                    pending.shard.finish()
            else:
                return

    def _write(self, pending: _PendingShard, result: RangeBatch) -> None:
        batch, vectors = self._classify(result)
        counts, left_out = self.writer.write(batch, vectors, pending.shard.log)
        pending.position = result.start + len(result.rows)
        self.advance(counts, left_out)

    def _classify(self, result: RangeBatch) -> tuple[Batch, list[ImageVectors]]:
        """Sort rows into new, known and left out, by the state of the index and the catalogue at this moment."""
        batch = Batch(result.start, len(result.rows))
        works = [row.work for row in result.rows if isinstance(row, EmbeddedWork)]
        reasons = removal_reasons(self.writer.catalogue, map(Candidate.of, works))
        present = self.writer.store.existing(sorted({work.training_image_id for work in works}))
        vectors: list[ImageVectors] = []
        for position, row in enumerate(result.rows, start=result.start):
            if isinstance(row, LeftOut):
                batch.left_out.append((position, row))
            elif (reason := reasons.get(Candidate.of(row.work))) is not None:
                batch.left_out.append((position, LeftOut(row.work.key, reason, REMOVED)))
            elif row.work.training_image_id in present:
                batch.known.append((position, row.work))
            elif row.recall is None or row.perceptual is None:
                batch.left_out.append((position, LeftOut(row.work.key, _NO_LONGER_INDEXED)))
            else:
                present.add(row.work.training_image_id)
                image = DecodedImage(row.work, row.thumbnail, (), row.first_of_several, row.local_features)
                batch.fresh.append((position, image))
                vectors.append((row.recall, row.perceptual))
        return batch, vectors
