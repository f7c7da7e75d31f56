"""A collection of the engine: the shard that is served, and the build of its successor.

A collection has two locks. `_shard_lock` is held during each call into qdrant-edge, so that no shard is closed while
it is read; this costs no concurrency, because qdrant-edge holds the interpreter lock anyway. `_write_lock` is held
during each write, and by a build while it copies files and while it swaps shards; reads continue then. A thread that
takes both takes `_write_lock` first.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import qdrant_edge as edge

from gmvaluator.index.engine.build import Builder, BuildStopped
from gmvaluator.index.engine.checksums import CHECKSUM
from gmvaluator.index.engine.files import remove_tree
from gmvaluator.index.engine.generations import Description, Generations, Rebuild
from gmvaluator.index.engine.settings import CollectionSettings, VectorSettings
from gmvaluator.index.engine.vector_checks import VectorChecks

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

EXIT_FAILED = 70
"""Exit code of the engine after a failed flush or a panic of qdrant-edge."""

_COUNT_WAIT_S = 1.0
"""Seconds for which `state` waits for a write before it returns the last counts."""

MAX_BACKLOG_BYTES = 256 * 1024 * 1024
"""Maximum size of the writes remembered during one build, in bytes; further writes are refused until it ends."""


# The counts below are read from a shard's files, because qdrant-edge's own `indexed_vectors_count` includes points that
# have been deleted or overwritten since.
def quantised_points(shard: Path, vector: str) -> int:
    """Return the number of points in `shard`, flushed before, whose current `vector` has a quantised code."""
    return sum(_live_codes(segment, vector) for segment in sorted((shard / "segments").iterdir()))


def indexed_points(shard: Path) -> int:
    """Return the number of points in indexed segments of `shard`, flushed before, for an unquantised collection."""
    return sum(_live_indexed(segment) for segment in sorted((shard / "segments").iterdir()))


def _live_codes(segment: Path, vector: str) -> int:
    meta = segment / f"vector_storage-{vector}" / "quantized.meta.json"
    if not meta.exists() or not meta.with_name("quantized.data").exists():
        return 0
    count: int = json.loads(meta.read_bytes())["vector_parameters"]["count"]
    return count - _deleted(segment)


def _live_indexed(segment: Path) -> int:
    versions = segment / "id_tracker.versions"  # 8 bytes per point; only indexed segments have the file
    return versions.stat().st_size // 8 - _deleted(segment) if versions.exists() else 0


def _deleted(segment: Path) -> int:
    """Return the number of set bits in the segment's deletion bitmap."""
    return int.from_bytes((segment / "id_tracker.deleted").read_bytes(), "little").bit_count()


def fail_fast(reason: str) -> NoReturn:
    """Exit the process immediately, without flushing; the next user starts an engine that recovers."""
    # Acknowledged writes are in the write-ahead log. A flush that failed must not be retried: the kernel may have
    # dropped the dirty pages and would report success.
    _log.critical("%s: ending at once", reason, exc_info=True)
    logging.shutdown()
    os._exit(EXIT_FAILED)


class BacklogFull(Exception):
    """A build is running and its backlog cannot take more writes."""


@dataclass(frozen=True, slots=True)
class State:
    """Counts and build state of a collection.

    indexed_points: points that are indexed, and quantised where the collection is. building: a build is running.
    waiting: a build would index points, or a rebuild has been requested. build_error: message of the last build if it
    failed.
    """

    points: int
    indexed_points: int
    segments: int
    building: bool
    waiting: bool
    build_error: str | None


class Collection:
    """A collection opened from its folder. Thread-safe.

    Every write that returned survives the end of the process, including kill -9. `flush` makes writes survive a power
    loss.
    """

    def __init__(self, folder: Path) -> None:
        self._files = Generations(folder)
        self._files.remove_leftovers()
        self._description = self._files.description()
        self._current = self._files.current()
        self._shard = edge.EdgeShard.load(str(self._current), self._description.settings.edge_config())
        self._shard_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._checks: VectorChecks | None = None
        self._dirty = True
        self._counted: tuple[int, int, int] | None = None
        self._last_counted = (0, 0, 0)
        self._backlog: list[edge.UpdateOperation] | None = None
        self._backlog_bytes = 0
        self._builder: Builder | None = None
        self._build_thread: threading.Thread | None = None
        self._build_error: str | None = None
        self._stopping = False
        self.state()

    @staticmethod
    def make(folder: Path, description: Description) -> None:
        """Create a collection without points in `folder`, which must exist and be empty."""
        first = Generations(folder).begin(description)
        shard = edge.EdgeShard.create(str(first), description.settings.edge_config())
        shard.flush()
        shard.close()

    @property
    def settings(self) -> CollectionSettings:
        return self._description.settings

    @property
    def metadata(self) -> dict[str, Any]:
        return self._description.metadata

    def read(self, call: Callable[[edge.EdgeShard], _Result]) -> _Result:
        """Return the result of `call` on the served shard."""
        with self._shard_lock:
            return call(self._shard)

    def damaged(self, ids: Sequence[int | uuid.UUID]) -> dict[int | uuid.UUID, str]:
        """Return those of `ids` whose stored vectors are damaged, each with what is wrong.

        A point that was written since the last flush may be checked as it was before.
        """
        with self._shard_lock:  # a build removes the files of the shard that it replaces
            if self._checks is None:
                self._checks = VectorChecks(self._current, self.settings, self._retrieve)
            checks = self._checks
        return checks.damaged(ids)

    def _retrieve(self, ids: Sequence[int | uuid.UUID], with_vectors: bool) -> Sequence[edge.Record]:
        checksum = edge.PayloadSelector.Include([CHECKSUM])
        return self.read(lambda shard: shard.retrieve(list(ids), checksum, with_vectors))

    def write(self, operation: edge.UpdateOperation, size_bytes: int) -> None:
        """Apply `operation`; return once it is in the write-ahead log. Raises BacklogFull."""
        with self._write_lock:
            if self._backlog_bytes + size_bytes > MAX_BACKLOG_BYTES:
                raise BacklogFull
            self._dirty, self._counted = True, None
            self.read(lambda shard: shard.update(operation))
            if self._backlog is not None:
                self._backlog.append(operation)
                self._backlog_bytes += size_bytes

    def describe(self, metadata: dict[str, Any], indexing_threshold_kb: int | None) -> None:
        """Merge `metadata` into the collection's, and set the indexing threshold if it is given; durably."""
        with self._write_lock:
            settings = self.settings
            if indexing_threshold_kb is not None:
                settings = replace(settings, indexing_threshold_kb=indexing_threshold_kb)
            self._describe(replace(self._description, settings=settings, metadata={**self.metadata, **metadata}))

    def _describe(self, description: Description) -> None:
        self._files.describe(description)
        self._description = description

    def request_rebuild(self, vectors: Mapping[str, VectorSettings], metadata: dict[str, Any]) -> None:
        """Record, durably, that a generation without deleted data is wanted; `start_build` builds it.

        vectors: its vector settings. metadata: merged into the collection's once that generation is served.
        """
        with self._write_lock:
            rebuild = Rebuild(str(uuid.uuid4()), replace(self.settings, vectors=vectors), metadata)
            self._describe(replace(self._description, rebuild=rebuild))

    def flush(self) -> None:
        """Flush all writes to disk, so that they survive a power loss."""
        with self._write_lock:
            self._flush()

    def _flush(self) -> None:
        if not self._dirty:
            return
        try:
            self.read(lambda shard: shard.flush())
        except Exception as error:  # noqa: BLE001 - qdrant-edge raises bare Exception
            fail_fast(f"{self._files.folder.name}: the flush failed: {error}")
        self._dirty, self._checks = False, None

    def state(self) -> State:
        """Return the current counts, or the previous ones while a build blocks writes."""
        # Counting reads the shard's files, so new writes are flushed first.
        if self._write_lock.acquire(timeout=_COUNT_WAIT_S):
            try:
                if self._counted is None:
                    self._flush()
                    self._counted = self._count()
                self._last_counted = self._counted
            finally:
                self._write_lock.release()
        points, indexed, segments = self._last_counted
        building = self._backlog is not None
        waiting = self.settings.needs_build(points - indexed) or self._description.rebuild is not None
        return State(points, indexed, segments, building, waiting, self._build_error)

    def _count(self) -> tuple[int, int, int]:
        info = self.read(lambda shard: shard.info())
        quantised = [name for name, vector in self.settings.vectors.items() if vector.quantisation is not None]
        counts = [quantised_points(self._current, name) for name in quantised] or [indexed_points(self._current)]
        return info.points_count, min(*counts, info.points_count), info.segments_count

    def start_build(self) -> None:
        """Start a build in the background if one is needed and none is running."""
        if not self.state().waiting:
            return
        with self._write_lock:
            if self._backlog is None and not self._stopping:
                self._build_error = None
                self._backlog, self._backlog_bytes = [], 0
                self._build_thread = threading.Thread(target=self._build_until_done, name="build")
                self._build_thread.start()

    def _build_until_done(self) -> None:
        try:
            while self._build_round():
                _log.info("%s: writes came during the build, building again", self._files.folder.name)
        except BuildStopped:
            _log.info("%s: the build was stopped", self._files.folder.name)
        except Exception as error:  # noqa: BLE001 - `state` reports it
            _log.exception("%s: the build failed", self._files.folder.name)
            self._build_error = str(error) or type(error).__name__
        finally:
            with self._write_lock:
                self._backlog, self._backlog_bytes = None, 0

    def _build_round(self) -> bool:
        """Run one build, from copy to swap; return whether concurrent writes need another."""
        rebuild = self._description.rebuild
        if rebuild is None:
            builder = Builder(self._files.next_generation(), self.settings)
        else:
            builder = Builder(self._files.next_generation(), rebuild.settings, self.settings)
        try:
            self._copy(builder)
            builder.run()
            self._adopt(builder.folder, rebuild)
            _log.info("%s: serving %s, %s", self._files.folder.name, builder.folder.name, self.state())
        finally:
            if self._files.current() != builder.folder:
                builder.discard()
        return self.state().waiting

    def _copy(self, builder: Builder) -> None:
        with self._write_lock:
            if self._stopping:
                raise BuildStopped
            self._builder = builder
            self._flush()
            self._backlog, self._backlog_bytes = [], 0
            builder.copy(self._current)

    def _adopt(self, folder: Path, rebuild: Rebuild | None) -> None:
        """Replay the writes made during the build into the shard in `folder`, then serve that shard."""
        settings = self.settings if rebuild is None else rebuild.settings
        fresh = edge.EdgeShard.load(str(folder), settings.edge_config())
        # Most of the backlog is replayed while writes continue, the rest while they are blocked.
        replayed = self._replay_most(fresh)
        with self._write_lock:
            assert self._backlog is not None
            for operation in self._backlog[replayed:]:
                fresh.update(operation)
            fresh.flush()
            self._switch(folder, rebuild)
            old, old_folder = self._shard, self._current
            with self._shard_lock:
                self._shard, self._current, self._checks = fresh, folder, None
            self._dirty, self._counted = False, None
            self._backlog, self._backlog_bytes = [], 0
        try:
            if rebuild is not None:
                with self._write_lock:
                    self._files.describe(self._description)
        finally:
            old.close()
            remove_tree(old_folder)

    def _switch(self, folder: Path, rebuild: Rebuild | None) -> None:
        """Make `folder` the served generation in CURRENT, and mark `rebuild` as done in memory."""
        try:
            self._files.switch(folder, "" if rebuild is None else rebuild.token)
        except OSError as error:
            if self._files.current() == folder:
                fail_fast(f"{self._files.folder.name}: the switch may not be durable: {error}")
            raise
        if rebuild is not None:
            # CURRENT names the rebuild, so it counts as done even if a full disk prevents updating collection.json.
            # Another rebuild may have been requested meanwhile; it stays pending.
            newer = self._description.rebuild
            done = replace(self._description, rebuild=rebuild).rebuilt()
            self._description = done if newer == rebuild else replace(done, rebuild=newer)

    def _replay_most(self, fresh: edge.EdgeShard) -> int:
        """Replay the backlog without blocking writes, until at most one operation is left.

        Returns the number of operations that were replayed.
        """
        replayed = 0
        while self._backlog is not None and len(self._backlog) - replayed > 1:
            batch = self._backlog[replayed:]
            for operation in batch:
                fresh.update(operation)
            replayed += len(batch)
        return replayed

    def close(self) -> None:
        """Stop a running build, flush, and close the shard."""
        self._stopping = True
        with self._write_lock:
            builder, thread = self._builder, self._build_thread
        if builder is not None:
            builder.stop()
        if thread is not None:
            thread.join()
        self.flush()
        with self._shard_lock:
            self._shard.close()
