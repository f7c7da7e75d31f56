"""Tests of near-duplicate grouping: groups do not chain, and a later run changes no earlier group."""

from collections.abc import Collection, Sequence

import numpy as np
import pytest

from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.index.schema import ALONE, KEY_GROUP
from gmvaluator.ports import Point
from gmvaluator.testing.index import EXAMPLE_IDENTITY, MemoryIndex, MemoryStore
from indexer.near_duplicates import Grouped, Grouper

THRESHOLD = 0.1


class Order:
    """An order in which works come by their numbers."""

    def first_seen(self, ids: Collection[TrainingImageId]) -> dict[TrainingImageId, int]:
        numbers = {work(number): number for number in range(500)}
        return {work: numbers[work] for work in ids if work in numbers}


def work(number: int) -> TrainingImageId:
    return training_image_id(sha256_hex(f"grouped {number}".encode()))


def at(number: int, angle: float, around: int = 0) -> Point:
    """Return a work at an angle in a plane; the distance of two is 1 - cos of the difference of their angles."""
    perceptual = np.zeros((EXAMPLE_IDENTITY.perceptual_views, EXAMPLE_IDENTITY.perceptual_dim), np.float32)
    perceptual[1:, 3] = 1
    perceptual[0, 2 * around : 2 * around + 2] = np.cos(angle), np.sin(angle)
    recall = np.zeros(EXAMPLE_IDENTITY.recall_dim, np.float32)
    recall[around] = 1
    return Point(work(number), recall, perceptual, {})


def stored(points: Sequence[Point]) -> MemoryStore:
    store = MemoryStore(MemoryIndex())
    store.create(EXAMPLE_IDENTITY)
    store.upsert(points)
    return store


def group(store: MemoryStore) -> Grouped:
    return Grouper(store, Order(), THRESHOLD).run()


def groups(store: MemoryStore) -> dict[int, int | None]:
    """Return the number of each work's first group member, by its own number; None if it is alone."""
    numbers = {str(work(number)): number for number in range(500)}
    return {numbers[str(point.training_image_id)]: numbers.get(point.payload[KEY_GROUP]) for point in store.scan()}


def test_near_works_join_the_one_that_came_first() -> None:
    store = stored([at(3, 0.1), at(1, 0.0), at(2, -0.1), at(4, 1.5)])
    done = group(store)
    assert groups(store) == {1: 1, 2: 1, 3: 1, 4: None}
    assert (done.checked, done.joined, done.groups) == (4, 2, {work(1)})


def test_groups_do_not_chain() -> None:
    """Each is near the next; only the first two are near the first."""
    store = stored([at(number, 0.3 * number) for number in range(6)])
    group(store)
    assert groups(store) == {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4}


def test_works_that_recall_keeps_apart_are_never_compared() -> None:
    store = stored([at(number, 0.0, around=0) for number in range(60)] + [at(100, 0.0, around=1)])
    group(store)
    assert set(groups(store).values()) == {0, None}


def test_the_nearest_of_several_groups_is_joined() -> None:
    store = stored([at(1, 0.0), at(2, 0.6), at(3, 0.35)])
    group(store)
    assert groups(store) == {1: None, 2: 2, 3: 2}


def test_many_near_duplicates_do_not_hide_the_first_from_the_next() -> None:
    store = stored([at(number, 0.001 * number) for number in range(150)])
    group(store)
    assert set(groups(store).values()) == {0}


def test_a_later_run_checks_new_works_and_renames_nothing() -> None:
    store = stored([at(5, 0.0), at(6, 0.1), at(9, 2.0)])
    group(store)
    before = groups(store)
    store.upsert([at(1, 0.05), at(10, 2.1)])
    done = group(store)
    assert (done.checked, done.total) == (2, 2)
    assert groups(store) == {**before, 1: 5, 9: 9, 10: 9}
    assert group(store).total == 0


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stopped_run_is_resumed(stop_after: int) -> None:
    points = [at(number, 0.2 * (number % 7), around=number % 11) for number in range(200)]
    whole, halved = stored(points), stored(points)
    group(whole)
    batches: list[int] = []
    run = Grouper(halved, Order(), THRESHOLD).run(
        lambda done: batches.append(done.checked), lambda: len(batches) >= stop_after
    )
    assert not run.complete
    assert len(halved.ungrouped()) == 200 - run.checked
    group(halved)
    assert groups(halved) == groups(whole)


def test_a_work_without_near_duplicates_is_marked_as_checked() -> None:
    store = stored([at(1, 0.0)])
    group(store)
    assert [point.payload[KEY_GROUP] for point in store.scan()] == [ALONE]
