"""Tests of the index crash test, with a few kills of the engine; `make crash` does a hundred each."""

import random
from contextlib import closing
from pathlib import Path

from gmvaluator.index.opening import open_store
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points
from tests.crash.index import BATCH, FIRST, Crashes, passed, run_index_kills

WRONG = ("not_loaded", "lost", "doubled", "built_at_the_end")


def test_the_engine_always_loads_with_every_acknowledged_point(tmp_path: Path) -> None:
    figures = run_index_kills(tmp_path, 2, seed=3)
    assert passed(figures)
    for moment in ("upsert", "flush", "build"):
        assert figures[f"{moment}_kills"] == 2
        assert FIRST + BATCH < figures[f"{moment}_acknowledged"] == figures[f"{moment}_points"]


def test_lost_different_and_surplus_points_are_counted(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as store:
        store.create(EXAMPLE_IDENTITY)
        first, other, missing, *_ = example_points(5)
        store.upsert([first, other])
        crashes = Crashes(tmp_path, store, random.Random(1))
        crashes.acknowledged = {point.training_image_id: point for point in (first, missing)}
        crashes.acknowledged[other.training_image_id] = first
        crashes.check()
        assert (crashes.lost, crashes.doubled) == (2, 0)
        store.upsert(example_points(FIRST))
        crashes.check()
        assert crashes.doubled == 0
        store.upsert(example_points(3, seed=8))
        crashes.check()
        assert crashes.doubled == 3
    assert not passed({f"{moment}_{name}": 1 for moment in ("upsert", "flush", "build") for name in WRONG})
