"""Windows of an image, and the cells that they hold."""

from __future__ import annotations

from functools import reduce
from operator import or_

import pytest

from gmvaluator.keypoints import GRID
from gmvaluator.valuation.parts import WHOLE
from gmvaluator.windows import WINDOW_MASKS, WINDOWS, Box


@pytest.mark.parametrize(("first", "count"), [(0, 2), (2, 2), (4, 4), (8, 3), (11, 3), (14, 6), (20, 6)])
def test_windows_of_one_kind_hold_every_cell_once(first: int, count: int) -> None:
    masks = WINDOW_MASKS[first : first + count]
    assert reduce(or_, masks) == WHOLE
    assert sum(mask.bit_count() for mask in masks) == GRID * GRID
    boxes = WINDOWS[first : first + count]
    assert sum((box.right - box.left) * (box.bottom - box.top) for box in boxes) == pytest.approx(1)


def test_the_last_window_is_the_centre() -> None:
    assert len(WINDOWS) == len(WINDOW_MASKS) == 27
    assert WINDOWS[-1] == Box(0.25, 0.25, 0.75, 0.75)
    assert WINDOW_MASKS[-1] == sum(1 << GRID * y + x for y in range(4, 12) for x in range(4, 12))


def test_windows_in_pixels_meet_without_gaps() -> None:
    edges = [box.pixels(448) for box in WINDOWS[8:11]]
    assert [edge[:1] + edge[2:3] for edge in edges] == [(0, 149), (149, 299), (299, 448)]
