"""One collection under measurement: filled, built, asked and weighed.

What a collection takes on disk and in memory.
"""

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
_REPORT_S = 20.0


@dataclass
class Filled:
    """A collection that holds every vector, indexed and quantised. during_build_ms: of queries asked meanwhile."""

    folder: Path
    store: QdrantStore
    upsert_s: float
    build_s: float
    during_build_ms: list[float] = field(default_factory=list)

    def search_by(self, settings: SearchSettings) -> None:
        """Keep search settings with the collection, where the service finds them."""
        self.store.record(self.store.metadata().with_search(settings, {}))

    def numbers(self, query: Float32Array, limit: int, settings: SearchSettings) -> list[int]:
        """Numbers of the vectors that the index finds nearest."""
        return [found.int for found, _ in self.store.nearest(query, limit, settings)]

    def query_ms(self, asked: Embeddings) -> tuple[list[float], list[float]]:
        """See `two_stage_ms`: each question asked for the first time, when originals may have to be read from the disk,
        and again."""
        count = len(asked.recall)
        times = asyncio.run(_over(self.folder, lambda search: two_stage_ms(search, asked, 2 * count)))
        return times[:count], times[count:]


@contextmanager
def filled(
    folder: Path,
    vectors: Vectors,
    profile: ProfileIdentity,
    quantisation: str,
    asked_during_build: Embeddings | None = None,
) -> Iterator[Filled]:
    """Make a collection in `folder`, which is removed at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    store = open_store(folder, quantisation=quantisation)
    try:
        store.create(profile)
        began = time.monotonic()
        _upsert(store, vectors, profile)
        upserted = time.monotonic()
        with _asking(folder, asked_during_build) as during_ms:
            store.build()
        built = time.monotonic()
        tell(f"{vectors.count:,} points built in {built - upserted:.0f} s, asking")
        yield Filled(folder, store, upserted - began, built - upserted, during_ms)
    finally:
        store.close()
        shutil.rmtree(folder, ignore_errors=True)


def _upsert(store: QdrantStore, vectors: Vectors, profile: ProfileIdentity) -> None:
    reported = time.monotonic()
    for numbers, rows in vectors.blocks():
        store.upsert(points_of(numbers, rows, profile))
        if time.monotonic() - reported > _REPORT_S:
            tell(f"{numbers.stop:,}/{vectors.count:,} points written")
            reported = time.monotonic()


@contextmanager
def _asking(folder: Path, asked: Embeddings | None) -> Iterator[list[float]]:
    """Ask again and again, one query at a time, until the end of the block; yields the list that times go to."""
    times: list[float] = []
    ended = threading.Event()
    if asked is None:
        yield times
        return

    def ask() -> None:
        times.extend(asyncio.run(_over(folder, lambda search: _until(search, asked, ended))))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


async def _until(search: QdrantSearch, asked: Embeddings, ended: threading.Event) -> list[float]:
    times: list[float] = []
    while not ended.is_set():
        times.extend(await two_stage_ms(search, asked, 1, len(times)))
        await asyncio.sleep(0)
    return times


async def _over(folder: Path, ask: Callable[[QdrantSearch], Awaitable[list[float]]]) -> list[float]:
    search = open_search(folder)
    try:
        return await ask(search)
    finally:
        await search.close()


async def two_stage_ms(search: QdrantSearch, asked: Embeddings, count: int, first: int = 0) -> list[float]:
    """Times of `count` of the service's queries, one at a time: `DEFAULT_DEPTH` of the data set recalled, the K nearest
    re-ranked."""
    times = []
    for number in range(first, first + count):
        row = number % len(asked.recall)
        began = time.perf_counter()
        candidates = await search.recall(asked.recall[row], DEFAULT_DEPTH, [DATA_SET])
        await search.rerank(asked.perceptual[row], [one.training_image_id for one in candidates], K)
        times.append(1e3 * (time.perf_counter() - began))
    return times


def tell(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench index: {text}", file=sys.stderr, flush=True)  # noqa: T201 - progress


_BLOCK_BYTES = 512


def weights(folder: Path, collection: str = "works") -> dict[str, Any]:
    """Bytes of the built collection in `folder`, of its engine's process, and of one vector's code.

    codes are pinned in memory; the graph is mapped and stays there while it is used; originals are read from disk.
    """
    shard = folder / collection / (folder / collection / "CURRENT").read_text(encoding="ascii").strip()
    codes = [path for path in shard.glob(f"segments/*/vector_storage-{RECALL}/quantized*") if path.is_file()]
    graph = [path for path in shard.glob(f"segments/*/vector_index-{RECALL}/*") if path.is_file()]
    data_bytes = sum(path.stat().st_size for path in codes if path.name == "quantized.data")
    return {
        "code_bytes_per_vector": data_bytes / max(1, _quantised(codes)),
        "codes_bytes": _held(codes),
        "graph_bytes": _held(graph),
        "disk_bytes": _held([path for path in shard.rglob("*") if path.is_file()]),
        "ram_bytes": _held(codes) + _held(graph),
        "engine_anonymous_bytes": _anonymous_bytes(folder),
    }


def _quantised(codes: list[Path]) -> int:
    described = [path.with_name("quantized.meta.json") for path in codes if path.name == "quantized.data"]
    return sum(int(json.loads(path.read_bytes())["vector_parameters"]["count"]) for path in described)


def _held(paths: list[Path]) -> int:
    """Bytes on disk, without holes."""
    return sum(path.stat().st_blocks * _BLOCK_BYTES for path in paths)


def _anonymous_bytes(folder: Path) -> int | None:
    """Memory of the engine that is not a mapped file; None where Linux does not say it, or on a server."""
    contact = Contact.read(folder)
    status = Path(f"/proc/{contact.pid}/status") if contact is not None else None
    if status is None or not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024
