"""Local features of works in an embedded index: time of fetching them, and bytes on disk with and without them.

    python -m evaluation.bench.index.local_features --output docs/results/index-local-features.json

The works are synthetic, with 300 keypoints each. A first fetch reads them from the engine; a repeated one finds their
parsed features in the search. Processor time is that of the client, which parses them.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.bench.index.collection import memory_use, show_progress
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.opening import open_search, open_store
from gmvaluator.ports import Point
from gmvaluator.report import write_report
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_features, example_points, with_local_features

WORKS = (1_051, 20_000)
FETCHED = 60
"""Works of one fetch, as many as are compared with an image."""

FETCHES = 200
Times = npt.NDArray[np.float64]

DIFFERENT = 200
"""Different local features that the works share; engine and parser treat all alike."""


def measure(works: Sequence[int], fetches: int) -> dict[str, Any]:
    """Return the figures, one row for each number of works."""
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", ignore_cleanup_errors=True) as folder:
        return {"works_a_fetch": FETCHED, "rows": [_row(Path(folder) / str(count), count, fetches) for count in works]}


def _row(folder: Path, works: int, fetches: int) -> dict[str, Any]:
    show_progress(f"{works:,} works")
    points = example_points(works)
    without = _disk_bytes(folder / "without", points)
    features = [example_features(seed=seed) for seed in range(DIFFERENT)]
    featured = [with_local_features(point, features[number % DIFFERENT]) for number, point in enumerate(points)]
    disk = _disk_bytes(folder / "with", featured)
    random = np.random.default_rng(0)
    chosen = [[points[i].training_image_id for i in random.choice(works, FETCHED, False)] for _ in range(fetches)]
    show_progress("fetching")
    times = asyncio.run(_fetch_ms(folder / "with", chosen))
    return {
        "works": works,
        **_percentiles("first_fetch", times[:, 0]),
        **_percentiles("first_fetch_processor", times[:, 1]),
        **_percentiles("repeated_fetch", times[:, 2]),
        "disk_bytes_per_work": round(disk / works),
        "disk_bytes_per_work_without": round(without / works),
    }


def _disk_bytes(folder: Path, points: Sequence[Point]) -> int:
    """Build a collection in `folder` and return its bytes on disk, the write-ahead log included."""
    with closing(open_store(folder)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(points)
        store.build()
        return int(memory_use(folder)["disk_bytes"])


async def _fetch_ms(folder: Path, chosen: Sequence[Sequence[TrainingImageId]]) -> Times:
    """Return, (F, 3), the time of each first fetch, its processor time, and the time of the same fetch again, in ms."""
    rows = []
    with closing(open_store(folder)):  # keeps the engine running
        for ids in chosen:
            search = open_search(folder)  # a new one has no features yet
            await search.info()
            began, processor_began = time.perf_counter(), time.process_time()
            await search.local_features(ids)
            first, processor = time.perf_counter() - began, time.process_time() - processor_began
            began = time.perf_counter()
            await search.local_features(ids)
            rows.append((first, processor, time.perf_counter() - began))
            await search.close()
    return np.array(rows) * 1e3


def _percentiles(name: str, times_ms: Times) -> dict[str, float]:
    return {f"{name}_p{part}_ms": round(float(np.percentile(times_ms, part)), 3) for part in (10, 50, 99)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.index.local_features", description=__doc__)
    parser.add_argument("--works", type=int, nargs="+", default=WORKS, help="numbers of works in the index")
    parser.add_argument("--fetches", type=int, default=FETCHES, help="fetches of each")
    parser.add_argument("--output", type=Path, help="file of the report; default: standard output")
    options = parser.parse_args(arguments)
    figures = measure(options.works, options.fetches)
    write_report(figures, "python -m evaluation.bench.index.local_features", options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
