"""`index add --engine ray`: Ray Data's workers read, decode and embed; this process writes, in each shard's order.

Counts, progress, resuming and consent are those of the threads: what comes back is written by the same `Writer`. One
writer is enough: it writes thousands of points a second, a worker embeds tens or hundreds.
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
from indexer.ray.worker import RESULT, Done, Embedded, Job, Part, Worker
from indexer.reading import DecodedImage
from indexer.report import REMOVED, LeftOut
from indexer.sources.item import Shard
from indexer.writing import Batch, ShardLog, Writer
from indexer.writing import Embedded as Vectors

PART_ROWS = 512
"""Rows that a worker takes at once of a shard whose rows can be counted; other shards are taken whole."""

_BLOCK_BYTES = 1024 * 1024
"""Results travel in blocks of about this size, so that progress is noted often."""

_STARTS = 3

_ADDRESS = "RAY_ADDRESS"


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard that is not finished. number: its place in the source as the workers open it."""

    number: int
    shard: Shard
    position: int
    log: ShardLog
    finish: Callable[[], None]


@contextmanager
def _cluster() -> Iterator[Any]:
    """The cluster of RAY_ADDRESS, or one of this machine's own for as long as it is used. Raises PreconditionFailed."""
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise PreconditionFailed(f"ray is not installed ({error}): pip install 'gmvaluator[ray]'") from error
    address = os.environ.get(_ADDRESS) or None
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    _start(ray, address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
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


def check_place(embedded: bool) -> None:
    """Raises PreconditionFailed for an embedded index on a cluster of several machines."""
    if embedded and os.environ.get(_ADDRESS):
        raise PreconditionFailed(
            f"{_ADDRESS} names a cluster, and an embedded index is one machine's: give --index URL"
        )


def index_with_ray(
    job: Job,
    shards: Sequence[OpenShard],
    writer: Writer,
    workers: int,
    advance: Advance,
    stopping: Callable[[], bool],
) -> bool:
    """Index what is left of `shards`; False if it was stopped before the end. workers: 0 takes every CPU or GPU.

    Raises PreconditionFailed if ray is not installed or the index cannot be reached from its workers, IndexFailed if a
    worker broke.
    """
    if not shards:
        return True
    parts = [part for one in shards for part in parts_of(one)]
    writing = Writing.of(shards, writer, advance)
    with _cluster() as ray:
        on_gpu = job.device != "cpu"
        resources = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        most = workers or max(1, int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1)))
        rows = [{"shard": one.shard, "start": one.start, "stop": -1 if one.stop is None else one.stop} for one in parts]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker, fn_constructor_args=(job,), batch_size=1, concurrency=min(most, len(parts)), **resources
        )
        with _translated(ray):
            for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
                for result in batch[RESULT]:
                    writing.take(pickle.loads(result))  # noqa: S301 - of our own workers
                    if stopping():
                        return False
    return True


def _start(ray: Any, **options: Any) -> None:
    """A cluster of this machine's own sometimes is not there in the 30 s that ray gives it: it is tried again.

    Raises Unavailable.
    """
    for left in reversed(range(_STARTS)):
        try:
            ray.init(**options)
        except Exception as error:
            ray.shutdown()
            if not left:
                raise Unavailable(f"ray cannot be reached or started, try again: {error}") from error
        else:
            return


@contextmanager
def _translated(ray: Any) -> Iterator[None]:
    """A worker's own error is raised as it is, whatever else ray raises as IndexFailed."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GmvaluatorError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, GmvaluatorError):
            raise cause from error
        raise IndexFailed(f"a worker of ray failed, run the same command again to go on: {error}") from error


def parts_of(one: OpenShard) -> Iterator[Part]:
    """What is left of a shard, cut for the workers."""
    if one.shard.rows is None:
        yield Part(one.number, one.position, None)
        return
    for start in range(one.position, max(one.shard.rows, one.position + 1), PART_ROWS):
        last = start + PART_ROWS >= one.shard.rows
        yield Part(one.number, start, None if last else start + PART_ROWS)


@dataclass(slots=True)
class _Line:
    """A shard's results that came before those in front of them, by where they start."""

    shard: OpenShard
    position: int
    early: dict[tuple[int, bool], Done] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Writing:
    """Writes results in each shard's order, so that "everything before a position is dealt with" is true."""

    lines: dict[int, _Line]
    writer: Writer
    advance: Advance

    @classmethod
    def of(cls, shards: Sequence[OpenShard], writer: Writer, advance: Advance) -> Writing:
        return cls({one.number: _Line(one, one.position) for one in shards}, writer, advance)

    def take(self, done: Done) -> None:
        """A result, whatever came before it."""
        line = self.lines[done.part.shard]
        line.early[done.start, done.last] = done
        while True:
            if (ready := line.early.pop((line.position, False), None)) is not None:
                self._write(line, ready)
            elif (ended := line.early.pop((line.position, True), None)) is not None:
                if ended.part.stop is None:
                    line.shard.finish()
            else:
                return

    def _write(self, line: _Line, done: Done) -> None:
        batch, vectors = self._sorted(done)
        counts, left_out = self.writer.write(batch, vectors, line.shard.log)
        line.position = done.start + len(done.rows)
        self.advance(counts, left_out)

    def _sorted(self, done: Done) -> tuple[Batch, list[Vectors]]:
        """What is removed is left out, what the index has by now is known, the rest is new."""
        batch = Batch(done.start, len(done.rows))
        works = [row.work for row in done.rows if isinstance(row, Embedded)]
        reasons = self.writer.removed((work.sha256, work.key) for work in works)
        present = self.writer.store.existing(sorted({work.training_image_id for work in works}))
        vectors: list[Vectors] = []
        for position, row in enumerate(done.rows, start=done.start):
            if isinstance(row, LeftOut):
                batch.left_out.append((position, row))
            elif (reason := reasons.get((row.work.sha256, row.work.key))) is not None:
                batch.left_out.append((position, LeftOut(row.work.key, reason, REMOVED)))
            elif row.work.training_image_id in present:
                batch.known.append((position, row.work))
            elif row.recall is None or row.perceptual is None:
                batch.left_out.append((position, LeftOut(row.work.key, _GONE)))
            else:
                present.add(row.work.training_image_id)
                batch.fresh.append((position, DecodedImage(row.work, row.thumbnail, ())))
                vectors.append((row.recall, row.perceptual))
        return batch, vectors


_GONE = "it left the index while it was read: run the same command again"
