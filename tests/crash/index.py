"""kill -9 of the embedded engine while it writes points, flushes, and builds: it always loads, and nothing is lost.

Every kill comes at a random moment of what is tried; then another engine is started on the folder, as any program does
that finds the index dead, and must answer with every point that was acknowledged, once and with its vectors.
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
"""Points that are there before the first kill; enough that the default threshold has them quantised."""

MOMENTS = ("upsert", "flush", "build")
_TRIES = 3
_SHOWN = 5
_TELL_EVERY = 10


@dataclass
class Crashes:
    """One folder whose engine is killed again and again."""

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
        """Write a batch that was never written before; it counts once it is acknowledged."""
        self.batches += 1
        points = example_points(BATCH, seed=self.batches)
        self.store.upsert(points)
        self.acknowledged.update({point.training_image_id: point for point in points})

    def write_twice(self) -> None:
        """So that a kill finds the engine writing, acknowledging, or taking the next batch."""
        self.write()
        self.write()

    def kill_during(self, work: Callable[[], object], longest_s: float) -> None:
        """Kill the engine at a random moment of `work`, or within `longest_s` if it ends before; then look."""
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
        if len(self.reopen_ms) % _TELL_EVERY == 0:
            print(f"{self.folder.name}: killed {len(self.reopen_ms)} times", file=sys.stderr, flush=True)  # noqa: T201

    def _load(self) -> None:
        try:
            self.store.info()
        except GmvaluatorError as error:
            self.not_loaded.append(str(error))

    def check(self) -> None:
        """Every point that was acknowledged is there; no more than were sent, and none with other vectors."""
        known = list(self.acknowledged)
        found = {point.training_image_id: point for point in self.store.fetch(known)}
        same = [one for one in known if one in found and _same(found[one], self.acknowledged[one])]
        self.lost += len(known) - len(same)
        self.doubled += max(0, self.store.info().points - self.batches * BATCH - FIRST)


def run_index_kills(folder: Path, kills: int, seed: int, moments: Sequence[str] = MOMENTS) -> dict[str, Any]:
    """Kill the engine `kills` times in each of `moments`; figures begin with the moment's name.

    kills_during: kills that came before the work had ended. lost: acknowledged points that were absent or other than
    sent, summed over every look. doubled: points beyond those that were sent.
    """
    figures: dict[str, Any] = {}
    for moment in moments:
        place = folder / moment
        with closing(open_store(place)) as store:
            store.create(EXAMPLE_IDENTITY)
            crashes = Crashes(place, store, random.Random(f"{seed} {moment}"))
            _begin(crashes)
            _TRIED[moment](crashes, kills)
            figures |= {f"{moment}_{name}": value for name, value in _figures(crashes, kills).items()}
    return figures


def sound(figures: dict[str, Any], moments: Sequence[str] = MOMENTS) -> bool:
    """True if the engine always loaded, nothing was lost or doubled, and everything could be built at the end."""
    return all(
        figures[f"{moment}_{name}"] == wanted
        for moment in moments
        for name, wanted in (("not_loaded", 0), ("lost", 0), ("doubled", 0), ("built_at_the_end", True))
    )


def _begin(crashes: Crashes) -> None:
    points = example_points(FIRST, seed=0)
    crashes.store.upsert(points)
    crashes.acknowledged.update({point.training_image_id: point for point in points})


def _upsert(crashes: Crashes, kills: int) -> None:
    longest_s = 2 * _median_s(crashes.write)
    for _ in range(kills):
        crashes.kill_during(crashes.write_twice, longest_s)


def _flush(crashes: Crashes, kills: int) -> None:
    """The engine counts from files, so asking for its state after a write makes it flush."""
    longest_s = _median_s(crashes.store.info, crashes.write)
    for _ in range(kills):
        crashes.write()
        crashes.kill_during(crashes.store.info, longest_s)


def _build(crashes: Crashes, kills: int) -> None:
    longest_s = 1.2 * _median_s(crashes.store.build, crashes.write)
    for _ in range(kills):
        crashes.write()
        crashes.kill_during(crashes.store.build, longest_s)


_TRIED: dict[str, Callable[[Crashes, int], None]] = {"upsert": _upsert, "flush": _flush, "build": _build}


def _median_s(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """How long it takes when nobody is killed, each time after `before`."""
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
    """Work whose engine may be killed: what it raises then is what its caller would be told."""
    try:
        work()
    except (IndexUnavailable, IndexFailed):
        return
    finally:
        ended.set()


def _same(found: Point, sent: Point) -> bool:
    return np.allclose(found.recall, sent.recall, atol=1e-6) and np.allclose(
        found.perceptual, sent.perceptual, atol=1e-6
    )
