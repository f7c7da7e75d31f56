"""Checkpoints of indexing in the catalogue, from which a run that was stopped or killed is resumed.

The catalogue's table of index runs has one row for each run over a source, and one for each of its shards. A finished
run is never resumed: the next run reads every row again, and finds that the images are indexed already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gmvaluator.catalogue.records import IndexRun
from gmvaluator.errors import IndexFailed
from gmvaluator.ids import TrainingImageId, sha256_hex
from indexer.report import Counts, LeftOut, LeftOutFile
from indexer.sources.item import Shard, Source
from indexer.sources.roots import printable

_MAX_NAME_BYTES = 1_000
"""Limit of the name of a run or of a shard, in bytes."""


class RunStore(Protocol):
    """The part of the catalogue that stores progress."""

    def last_index_run(self, data_set: str, source: str) -> IndexRun | None: ...

    def begin_index_run(self, data_set: str, source: str) -> IndexRun: ...

    def advance_index_run(
        self,
        run_id: int,
        position: int,
        counts: Mapping[str, int],
        finished: bool = False,
        works: Collection[TrainingImageId] = (),
    ) -> IndexRun: ...

    def latest_works(self, data_set: str, source: str) -> list[TrainingImageId]: ...


class PointStore(Protocol):
    """The part of the index that progress is checked against."""

    def existing(self, ids: Sequence[TrainingImageId]) -> Collection[TrainingImageId]: ...


@dataclass(frozen=True, slots=True)
class SourceRun:
    """One run over a source into a data set of a collection."""

    runs: RunStore
    run: IndexRun
    left_out: LeftOutFile

    @classmethod
    def begin(cls, runs: RunStore, store: PointStore, data_set: str, name: str, left_out: LeftOutFile) -> SourceRun:
        """Resume the run `name` if it did not finish and the index still holds its last works; else begin one."""
        name = _short(name)
        last = runs.last_index_run(data_set, name)
        # Compared with the run's own works: the newest works of the data set may be in another collection.
        if last is not None and not last.finished and not _holds(store, runs.latest_works(data_set, _shards_of(last))):
            runs.advance_index_run(last.run_id, last.position, last.counts, finished=True)
        run = runs.begin_index_run(data_set, name)
        resumed = last is not None and last.run_id == run.run_id
        if not resumed:
            left_out.clear()
        return cls(runs, run, left_out)

    def shards(self, source: Source) -> Iterator[tuple[Shard, ShardRun]]:
        """Yield every shard with its progress, in order; read a shard from its progress' position on."""
        for shard in source.shards:
            # The name holds the fingerprint, so a shard whose rows may have changed is read from its first row.
            name = _shards_of(self.run) + _short(f"{shard.name} @ {shard.fingerprint}")
            last = self.runs.last_index_run(self.run.data_set, name)
            row = last if last is not None else self.runs.begin_index_run(self.run.data_set, name)
            if last is not None and not last.finished:
                # Rows left out are written before progress is recorded, so some may be listed that are read again.
                self.left_out.rewind(shard.name, row.position)
            yield shard, ShardRun(self.runs, self.left_out, shard.name, row)

    def finish(self, counts: Counts) -> None:
        """Record that the run finished, so that it is not resumed."""
        self.runs.advance_index_run(self.run.run_id, 0, counts.as_dict(), finished=True)


@dataclass(slots=True)
class ShardRun:
    """The progress of one shard. Implements `ShardLog`."""

    _runs: RunStore
    _file: LeftOutFile
    _shard: str
    _row: IndexRun
    counts: Counts = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counts.from_dict(self._row.counts) if self._row.counts else Counts()

    @property
    def position(self) -> int:
        """The number of rows that are done."""
        return self._row.position

    @property
    def finished(self) -> bool:
        """Whether all rows are done."""
        return self._row.finished

    def advance(
        self,
        position: int,
        batch: Counts,
        left_out: Sequence[tuple[int, LeftOut]],
        works: Collection[TrainingImageId] = (),
    ) -> None:
        """Record a batch: the rows it left out, then its end. Raises IndexFailed unless it follows the last one."""
        start = position - batch.read
        if start != self._row.position:
            raise IndexFailed(
                f"rows {start:,} to {position:,} of {self._shard} were written, and nothing is noted of those from "
                f"{self._row.position:,} on: run the same command again to go on"
            )
        self._file.write(self._shard, left_out)
        self.counts.add(batch)
        self._row = self._runs.advance_index_run(self._row.run_id, position, self.counts.as_dict(), works=works)

    def finish(self) -> None:
        """Record that all rows are done."""
        self._row = self._runs.advance_index_run(
            self._row.run_id, self._row.position, self.counts.as_dict(), finished=True
        )


def _short(name: str) -> str:
    """Return a name that PostgreSQL can index; a long one, as of a deep path, ends in its hash."""
    text = printable(name)
    return name if len(text.encode()) <= _MAX_NAME_BYTES else f"{text[:200]} ... {sha256_hex(text.encode())}"


def _shards_of(run: IndexRun) -> str:
    """Return the prefix of the names under which the progress of the run's shards is stored."""
    return f"run {run.run_id}: "


def _holds(store: PointStore, ids: Sequence[TrainingImageId]) -> bool:
    """Return False if the index was emptied or replaced since these works were written."""
    return not ids or len(store.existing(ids)) == len(ids)
