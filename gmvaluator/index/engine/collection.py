"""One collection: a shard that is served, and the build of the one that replaces it.

Two locks. `_shard_lock` is held for each call into qdrant-edge, which holds the interpreter's lock anyway, so
that no shard is closed under a reader. `_write_lock` is held for each write, and by a build while it copies
files and while it changes shards: reads go on then. It is always taken first.

How many points of a shard are quantised, counted in its files.

qdrant-edge's own `indexed_vectors_count` keeps counting points that were deleted or overwritten since.

The end of an engine that can no longer trust its files or its memory.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import qdrant_edge as edge

from gmvaluator.index.engine.build import Builder, BuildStopped
from gmvaluator.index.engine.files import remove_tree
from gmvaluator.index.engine.generations import Description, Generations, Rebuild
from gmvaluator.index.engine.settings import CollectionSettings, VectorSettings


def quantised_points(shard: Path, vector: str) -> int:
    """Points in `shard` (flushed before) whose current `vector` has a product-quantised code."""
    return sum(_live_codes(segment, vector) for segment in sorted((shard / "segments").iterdir()))


def indexed_points(shard: Path) -> int:
    """Points in `shard` (flushed before) that stand in an indexed segment, where nothing is quantised."""
    return sum(_live_indexed(segment) for segment in sorted((shard / "segments").iterdir()))


def _live_codes(segment: Path, vector: str) -> int:
    described = segment / f"vector_storage-{vector}" / "quantized.meta.json"
    if not described.exists() or not described.with_name("quantized.data").exists():
        return 0
    count: int = json.loads(described.read_bytes())["vector_parameters"]["count"]
    return count - _deleted(segment)


def _live_indexed(segment: Path) -> int:
    versions = segment / "id_tracker.versions"
    return versions.stat().st_size // 8 - _deleted(segment) if versions.exists() else 0


def _deleted(segment: Path) -> int:
    return int.from_bytes((segment / "id_tracker.deleted").read_bytes(), "little").bit_count()


BROKEN = 70
"""Exit code after a failed flush or a panic."""


def end_at_once(reason: str) -> NoReturn:
    """End the process without flushing: what was acknowledged is in the write-ahead log, and a failed flush is
    never tried again. The next user starts another engine, which recovers."""
    _log.critical("%s: ending at once", reason, exc_info=True)
    logging.shutdown()
    os._exit(BROKEN)


_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

_COUNT_WAIT_S = 1.0
MAX_BACKLOG_BYTES = 256 * 1024 * 1024
"""Writes remembered during one build; more are refused until it has ended."""


class BacklogFull(Exception):
    """A build is under way and no more writes can be remembered for it."""


@dataclass(frozen=True, slots=True)
class State:
    """Counts of a collection. waiting: a build would index something, or a rebuild is wanted. build_error: why the last
    build failed."""

    points: int
    indexed_points: int
    segments: int
    building: bool
    waiting: bool
    build_error: str | None


class Collection:
    """Thread-safe. Every write that returned survives the end of the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._files = Generations(folder)
        self._files.remove_leftovers()
        self._description = self._files.description()
        self._current = self._files.current()
        self._shard = edge.EdgeShard.load(str(self._current), self._description.settings.edge_config())
        self._shard_lock = threading.Lock()
        self._write_lock = threading.Lock()
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
        """Fill `folder`, which exists and is empty, with a collection that has no points."""
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

    def read(self, call: Callable[[edge.EdgeShard], _Answer]) -> _Answer:
        """Answer of `call` on the shard in use."""
        with self._shard_lock:
            return call(self._shard)

    def write(self, operation: edge.UpdateOperation, size_bytes: int) -> None:
        """Apply `operation`; returns once it is in the write-ahead log. Raises BacklogFull."""
        with self._write_lock:
            if self._backlog_bytes + size_bytes > MAX_BACKLOG_BYTES:
                raise BacklogFull
            self._dirty, self._counted = True, None
            self.read(lambda shard: shard.update(operation))
            if self._backlog is not None:
                self._backlog.append(operation)
                self._backlog_bytes += size_bytes

    def describe(self, metadata: dict[str, Any], indexing_threshold_kb: int | None) -> None:
        """Merge `metadata` into what is kept, and change when points are indexed, durably."""
        with self._write_lock:
            settings = self.settings
            if indexing_threshold_kb is not None:
                settings = replace(settings, indexing_threshold_kb=indexing_threshold_kb)
            self._describe(replace(self._description, settings=settings, metadata={**self.metadata, **metadata}))

    def _describe(self, description: Description) -> None:
        self._files.describe(description)
        self._description = description

    def want_rebuild(self, vectors: Mapping[str, VectorSettings], metadata: dict[str, Any]) -> None:
        """Ask, durably, for a generation with nothing in it of what was deleted, its vectors kept as `vectors` say.

        metadata: merged into what is kept once that generation serves. `start_build` makes it.
        """
        with self._write_lock:
            wanted = Rebuild(str(uuid.uuid4()), replace(self.settings, vectors=vectors), metadata)
            self._describe(replace(self._description, rebuild=wanted))

    def flush(self) -> None:
        """Bring everything written so far to the disk, past a loss of power."""
        with self._write_lock:
            self._flush()

    def _flush(self) -> None:
        if not self._dirty:
            return
        try:
            self.read(lambda shard: shard.flush())
        except Exception as error:  # noqa: BLE001 - qdrant-edge raises bare Exception
            end_at_once(f"{self._files.folder.name}: the flush failed: {error}")
        self._dirty = False

    def state(self) -> State:
        """Counts as of now, or, while a build copies files, as of the last time.

        They are read from the shard's files, so what was written since is flushed first.
        """
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
        waiting = self.settings.waits(points - indexed) or self._description.rebuild is not None
        return State(points, indexed, segments, building, waiting, self._build_error)

    def _count(self) -> tuple[int, int, int]:
        info = self.read(lambda shard: shard.info())
        quantised = [name for name, vector in self.settings.vectors.items() if vector.quantisation is not None]
        counts = [quantised_points(self._current, name) for name in quantised] or [indexed_points(self._current)]
        return info.points_count, min(*counts, info.points_count), info.segments_count

    def start_build(self) -> None:
        """Begin to index what waits, if anything does and no build is under way; returns at once."""
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
        except Exception as error:  # noqa: BLE001 - it is kept, and told to whoever asks for the state
            _log.exception("%s: the build failed", self._files.folder.name)
            self._build_error = str(error) or type(error).__name__
        finally:
            with self._write_lock:
                self._backlog, self._backlog_bytes = None, 0

    def _build_round(self) -> bool:
        """One build from copy to switch; True if writes came meanwhile and still wait for a build."""
        wanted = self._description.rebuild
        if wanted is None:
            builder = Builder(self._files.following(), self.settings)
        else:
            builder = Builder(self._files.following(), wanted.settings, self.settings)
        try:
            self._copy(builder)
            builder.run()
            self._adopt(builder.folder, wanted)
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
        """Replay what was written during the build into the shard in `folder`, then serve that one."""
        settings = self.settings if rebuild is None else rebuild.settings
        fresh = edge.EdgeShard.load(str(folder), settings.edge_config())
        replayed = self._replay_most(fresh)
        with self._write_lock:
            assert self._backlog is not None
            for operation in self._backlog[replayed:]:
                fresh.update(operation)
            fresh.flush()
            self._switch(folder, rebuild)
            old, old_folder = self._shard, self._current
            with self._shard_lock:
                self._shard, self._current = fresh, folder
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
        """Let `folder` be the one in use. From then on a rebuild is done, also if it cannot be noted (a full disk)."""
        try:
            self._files.switch(folder, "" if rebuild is None else rebuild.token)
        except OSError as error:
            if self._files.current() == folder:
                end_at_once(f"{self._files.folder.name}: the switch may not be durable: {error}")
            raise
        if rebuild is not None:
            # Another rebuild that was asked for meanwhile is still to come.
            newer = self._description.rebuild
            done = replace(self._description, rebuild=rebuild).rebuilt()
            self._description = done if newer == rebuild else replace(done, rebuild=newer)

    def _replay_most(self, fresh: edge.EdgeShard) -> int:
        """Replay the backlog while writes go on, until little is left; returns how many operations were."""
        replayed = 0
        while self._backlog is not None and len(self._backlog) - replayed > 1:
            batch = self._backlog[replayed:]
            for operation in batch:
                fresh.update(operation)
            replayed += len(batch)
        return replayed

    def close(self) -> None:
        """Stop a build, flush, and let go of the files."""
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
