"""A collection under measurement: filling, building, query latency, and use of disk and memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.bench.index.vectors import DATA_SET, Vectors, points_of
from gmvaluator.index.engine.launcher import Contact
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.index.schema import DEFAULT_DEPTH, RECALL, SearchSettings
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Embeddings, Float32Array
from gmvaluator.profile import ProfileIdentity

K = 50
"""Neighbours that re-ranking returns, and that recall is measured at."""

_REPORT_S = 20.0
_BLOCK_BYTES = 512
"""Unit of `st_blocks`."""


@dataclass
class Filled:
    """A collection with all vectors, indexed and quantised. during_build_ms: latencies of queries during the build."""

    folder: Path
    store: QdrantStore
    upsert_s: float
    build_s: float
    during_build_ms: list[float] = field(default_factory=list)

    def search_by(self, settings: SearchSettings) -> None:
        """Store search settings in the collection, from which the service reads them."""
        self.store.record(self.store.metadata().with_search(settings, {}))

    def numbers(self, query: Float32Array, limit: int, settings: SearchSettings) -> list[int]:
        """Return the numbers of the vectors that the index finds nearest to `query` (D,)."""
        return [image_id.int for image_id, _ in self.store.nearest(query, limit, settings)]

    def query_ms(self, queries: Embeddings) -> tuple[list[float], list[float]]:
        """Return the latencies of `two_stage_ms` for the first and the second run of each query.

        In the first run original vectors may have to be read from disk.
        """
        count = len(queries.recall)
        times = asyncio.run(_with_search(self.folder, lambda search: two_stage_ms(search, queries, 2 * count)))
        return times[:count], times[count:]


@contextmanager
def filled(
    folder: Path,
    vectors: Vectors,
    profile: ProfileIdentity,
    quantisation: str,
    queries_during_build: Embeddings | None = None,
) -> Iterator[Filled]:
    """Provide a built collection in `folder`, which is removed at the end.

    queries_during_build: queries whose latency is measured while it is built.
    """
    shutil.rmtree(folder, ignore_errors=True)
    store = open_store(folder, quantisation=quantisation)
    try:
        store.create(profile)
        began = time.monotonic()
        _upsert(store, vectors, profile)
        upserted = time.monotonic()
        with _querying(folder, queries_during_build) as during_ms:
            store.build()
        built = time.monotonic()
        show_progress(f"{vectors.count:,} points built in {built - upserted:.0f} s, querying")
        yield Filled(folder, store, upserted - began, built - upserted, during_ms)
    finally:
        store.close()
        shutil.rmtree(folder, ignore_errors=True)


def _upsert(store: QdrantStore, vectors: Vectors, profile: ProfileIdentity) -> None:
    reported = time.monotonic()
    for numbers, rows in vectors.blocks():
        store.upsert(points_of(numbers, rows, profile))
        if time.monotonic() - reported > _REPORT_S:
            show_progress(f"{numbers.stop:,}/{vectors.count:,} points written")
            reported = time.monotonic()


@contextmanager
def _querying(folder: Path, queries: Embeddings | None) -> Iterator[list[float]]:
    """Run queries one at a time in another thread during the context; provide the list of their latencies."""
    times: list[float] = []
    ended = threading.Event()
    if queries is None:
        yield times
        return

    def run() -> None:
        times.extend(asyncio.run(_with_search(folder, lambda search: _query_until(search, queries, ended))))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


async def _query_until(search: QdrantSearch, queries: Embeddings, ended: threading.Event) -> list[float]:
    times: list[float] = []
    while not ended.is_set():
        times.extend(await two_stage_ms(search, queries, 1, len(times)))
        await asyncio.sleep(0)
    return times


async def _with_search(folder: Path, run: Callable[[QdrantSearch], Awaitable[list[float]]]) -> list[float]:
    search = open_search(folder)
    try:
        return await run(search)
    finally:
        await search.close()


async def two_stage_ms(search: QdrantSearch, queries: Embeddings, count: int, first: int = 0) -> list[float]:
    """Return the latencies of `count` of the service's queries, run one at a time from query `first` on.

    A query recalls `DEFAULT_DEPTH` works of the data set and re-ranks the K nearest.
    """
    times = []
    for number in range(first, first + count):
        row = number % len(queries.recall)
        began = time.perf_counter()
        candidates = await search.recall(queries.recall[row], DEFAULT_DEPTH, [DATA_SET])
        ids = [candidate.training_image_id for candidate in candidates]
        await search.rerank(queries.perceptual[row], ids, K)
        times.append(1e3 * (time.perf_counter() - began))
    return times


def show_progress(text: str) -> None:
    """Print a progress line to standard error."""
    print(f"bench index: {text}", file=sys.stderr, flush=True)  # noqa: T201 - progress


def memory_use(folder: Path, collection: str = "works") -> dict[str, Any]:
    """Return the bytes of the built collection in `folder`, of its engine's process, and of one vector's code.

    Codes are pinned in memory. The graph is memory-mapped and stays in memory while it is used. Original vectors are
    read from disk.
    """
    shard = folder / collection / (folder / collection / "CURRENT").read_text(encoding="ascii").strip()
    codes = [path for path in shard.glob(f"segments/*/vector_storage-{RECALL}/quantized*") if path.is_file()]
    graph = [path for path in shard.glob(f"segments/*/vector_index-{RECALL}/*") if path.is_file()]
    data_bytes = sum(path.stat().st_size for path in codes if path.name == "quantized.data")
    return {
        "code_bytes_per_vector": data_bytes / max(1, _quantised(codes)),
        "codes_bytes": _disk_bytes(codes),
        "graph_bytes": _disk_bytes(graph),
        "disk_bytes": _disk_bytes([path for path in shard.rglob("*") if path.is_file()]),
        "ram_bytes": _disk_bytes(codes) + _disk_bytes(graph),
        "engine_anonymous_bytes": _anonymous_bytes(folder),
    }


def _quantised(codes: list[Path]) -> int:
    metas = [path.with_name("quantized.meta.json") for path in codes if path.name == "quantized.data"]
    return sum(int(json.loads(path.read_bytes())["vector_parameters"]["count"]) for path in metas)


def _disk_bytes(paths: list[Path]) -> int:
    """Return the bytes that files occupy on disk, without holes."""
    return sum(path.stat().st_blocks * _BLOCK_BYTES for path in paths)


def _anonymous_bytes(folder: Path) -> int | None:
    """Return the engine's anonymous memory, without mapped files; None for a server, or without /proc."""
    contact = Contact.read(folder)
    status = Path(f"/proc/{contact.pid}/status") if contact is not None else None
    if status is None or not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024
