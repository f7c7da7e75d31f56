"""Kill -9 of the embedded engine during upserts, flushes and builds.

Each kill comes at a random moment of the operation. Another engine is then started on the folder, as by any program
that finds the index dead, and must return every acknowledged point, once and with its vectors.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gmvaluator.errors import GmvaluatorError, IndexFailed, IndexUnavailable
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.launcher import Contact
from gmvaluator.index.opening import open_store
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Point
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points

BATCH = 40
FIRST = 400
"""Points written before the first kill; enough for the default threshold to quantise them."""

MOMENTS = ("upsert", "flush", "build")
_TRIES = 3
_SHOWN = 5
_PROGRESS_EVERY = 10


@dataclass
class Crashes:
    """An index folder whose engine is killed repeatedly, with what was acknowledged and what went wrong.

    during: kills that came before the operation had ended.
    """

    folder: Path
    store: QdrantStore
    chance: random.Random
    acknowledged: dict[TrainingImageId, Point] = field(default_factory=dict)
    batches: int = 0
    not_loaded: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    reopen_ms: list[float] = field(default_factory=list)
    during: int = 0

    def write(self) -> None:
        """Write a new batch, and record it once it is acknowledged."""
        self.batches += 1
        points = example_points(BATCH, seed=self.batches)
        self.store.upsert(points)
        self.acknowledged.update({point.training_image_id: point for point in points})

    def write_twice(self) -> None:
        """Write two batches, so that a kill also falls between an acknowledgement and the next batch."""
        self.write()
        self.write()

    def kill_during(self, work: Callable[[], object], longest_s: float) -> None:
        """Kill the engine at a random moment within `longest_s` of the start of `work`, and check the index."""
        contact = Contact.read(self.folder)
        assert contact is not None
        ended = threading.Event()
        thread = threading.Thread(target=_quietly, args=(work, ended))
        thread.start()
        time.sleep(self.chance.uniform(0, longest_s))
        self.during += not ended.is_set()
        os.kill(contact.pid, signal.SIGKILL)
        began = time.monotonic()
        self._load()
        self.reopen_ms.append(1e3 * (time.monotonic() - began))
        thread.join()
        self.check()
        if len(self.reopen_ms) % _PROGRESS_EVERY == 0:
            print(f"{self.folder.name}: killed {len(self.reopen_ms)} times", file=sys.stderr, flush=True)  # noqa: T201

    def _load(self) -> None:
        try:
            self.store.info()
        except GmvaluatorError as error:
            self.not_loaded.append(str(error))

    def check(self) -> None:
        """Count acknowledged points that are absent or differ, and points beyond those that were sent."""
        stored = {point.training_image_id: point for point in self.store.fetch(list(self.acknowledged))}
        intact = [
            image_id
            for image_id, point in self.acknowledged.items()
            if image_id in stored and _same(stored[image_id], point)
        ]
        self.lost += len(self.acknowledged) - len(intact)
        self.doubled += max(0, self.store.info().points - self.batches * BATCH - FIRST)


def run_index_kills(folder: Path, kills: int, seed: int, moments: Sequence[str] = MOMENTS) -> dict[str, Any]:
    """Kill the engine `kills` times in each of `moments`; names of figures begin with the moment's.

    kills_during: kills that came before the operation had ended. lost: acknowledged points that were absent or
    differed, summed over all checks. doubled: points beyond those that were sent.
    """
    figures: dict[str, Any] = {}
    for moment in moments:
        index_folder = folder / moment
        with closing(open_store(index_folder)) as store:
            store.create(EXAMPLE_IDENTITY)
            crashes = Crashes(index_folder, store, random.Random(f"{seed} {moment}"))
            _write_first(crashes)
            _KILLS[moment](crashes, kills)
            figures |= {f"{moment}_{name}": value for name, value in _figures(crashes, kills).items()}
    return figures


def passed(figures: dict[str, Any], moments: Sequence[str] = MOMENTS) -> bool:
    """Return whether the engine always loaded, nothing was lost or doubled, and a final build succeeded."""
    return all(
        figures[f"{moment}_{name}"] == expected
        for moment in moments
        for name, expected in (("not_loaded", 0), ("lost", 0), ("doubled", 0), ("built_at_the_end", True))
    )


def _write_first(crashes: Crashes) -> None:
    points = example_points(FIRST, seed=0)
    crashes.store.upsert(points)
    crashes.acknowledged.update({point.training_image_id: point for point in points})


def _kill_upserts(crashes: Crashes, kills: int) -> None:
    longest_s = 2 * _median_s(crashes.write)
    for _ in range(kills):
        crashes.kill_during(crashes.write_twice, longest_s)


def _kill_flushes(crashes: Crashes, kills: int) -> None:
    # The engine counts from files, so requesting its state after a write makes it flush.
    longest_s = _median_s(crashes.store.info, crashes.write)
    for _ in range(kills):
        crashes.write()
        crashes.kill_during(crashes.store.info, longest_s)


def _kill_builds(crashes: Crashes, kills: int) -> None:
    longest_s = 1.2 * _median_s(crashes.store.build, crashes.write)
    for _ in range(kills):
        crashes.write()
        crashes.kill_during(crashes.store.build, longest_s)


_KILLS: dict[str, Callable[[Crashes, int], None]] = {
    "upsert": _kill_upserts,
    "flush": _kill_flushes,
    "build": _kill_builds,
}


def _median_s(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the median duration of `work` without a kill, each time after `before`."""
    times = []
    for _ in range(_TRIES):
        before()
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def _figures(crashes: Crashes, kills: int) -> dict[str, Any]:
    crashes.check()
    crashes.store.build()
    info = crashes.store.info()
    return {
        "kills": kills,
        "kills_during": crashes.during,
        "not_loaded": len(crashes.not_loaded),
        "not_loaded_why": crashes.not_loaded[:_SHOWN],
        "acknowledged": len(crashes.acknowledged),
        "points": info.points,
        "lost": crashes.lost,
        "doubled": crashes.doubled,
        "built_at_the_end": info.points == info.indexed_points,
        "reopen_p50_ms": statistics.median(crashes.reopen_ms),
        "reopen_max_ms": max(crashes.reopen_ms),
    }


def _quietly(work: Callable[[], object], ended: threading.Event) -> None:
    """Run `work`, ignore the errors that a killed engine causes, and set `ended`."""
    try:
        work()
    except (IndexUnavailable, IndexFailed):
        return
    finally:
        ended.set()


def _same(stored: Point, sent: Point) -> bool:
    return np.allclose(stored.recall, sent.recall, atol=1e-6) and np.allclose(
        stored.perceptual, sent.perceptual, atol=1e-6
    )
