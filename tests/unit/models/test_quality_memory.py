"""Qualities are remembered by content, up to a bound."""

import numpy as np

from gmvaluator.models.quality_memory import QualityMemory, content_hash


def pixels(value: int, shape: tuple[int, ...] = (3, 4, 6)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full(shape, value, np.uint8)


def test_the_same_pixels_are_the_same_image() -> None:
    memory = QualityMemory()
    memory.lookup(pixels(1)).add(0.5, 1.0)
    assert memory.lookup(pixels(1)).crops == 1
    assert memory.lookup(pixels(2)).crops == 0


def test_shape_and_order_count_as_content() -> None:
    assert content_hash(pixels(1, (3, 4, 6))) != content_hash(pixels(1, (3, 6, 4)))
    varied = np.arange(72, dtype=np.uint8).reshape(3, 4, 6)
    turned = np.ascontiguousarray(varied.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert content_hash(turned) == content_hash(varied)


def test_the_least_recently_used_score_is_dropped_first() -> None:
    memory = QualityMemory(max_images=2)
    for value in (1, 2):
        memory.lookup(pixels(value)).add(0.5, 1.0)
    memory.lookup(pixels(1))
    memory.lookup(pixels(3))
    assert len(memory) == 2
    assert memory.lookup(pixels(1)).crops == 1
    assert memory.lookup(pixels(2)).crops == 0


def test_a_forgotten_score_starts_from_nothing() -> None:
    memory = QualityMemory()
    score = memory.lookup(pixels(1))
    score.add(0.5, 1.0)
    memory.forget(score)
    assert memory.lookup(pixels(1)).crops == 0
