"""Outlines of regions: from cells of a square to paths, labels and colours on a picture of any shape."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmvaluator.keypoints import GRID
from gmvaluator.region_outlines import MAX_DRAWN, PALETTE, Picture, Point, area, colour, ink, label_points, outlines
from gmvaluator.valuation.parts import WHOLE

SQUARE = Picture(160, 160)
sides = st.integers(1, 4_000)


def box(left: int, top: int, right: int, bottom: int) -> int:
    return sum(1 << GRID * y + x for y in range(top, bottom) for x in range(left, right))


def bounds(paths: Sequence[Sequence[Point]]) -> tuple[float, float, float, float]:
    points = [point for path in paths for point in path]
    xs, ys = [point.x for point in points], [point.y for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def test_the_outline_of_a_box_is_one_path_around_it() -> None:
    paths = outlines(box(2, 3, 10, 5), SQUARE)
    assert len(paths) == 1
    assert bounds(paths) == (20, 30, 100, 50)
    assert area(paths[0]) == pytest.approx(80 * 20, rel=0.03)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Picture(160, 80), (80, 0, 160, 80)),
        (Picture(80, 160), (40, 0, 80, 160)),
        (Picture(320, 320), (160, 0, 320, 320)),
    ],
)
def test_a_half_of_the_square_is_a_half_of_a_picture_of_any_shape(
    picture: Picture, expected: tuple[float, float, float, float]
) -> None:
    assert bounds(outlines(box(8, 0, 16, 16), picture)) == expected


def test_cells_beside_a_narrow_picture_have_no_outline() -> None:
    assert outlines(box(0, 0, 6, 16), Picture(40, 160)) == []
    assert len(outlines(WHOLE, Picture(1, 200))) == 1


def test_a_hole_has_a_path_of_its_own_that_runs_the_other_way() -> None:
    paths = outlines(box(0, 0, 9, 9) & ~box(3, 3, 6, 6), SQUARE)
    assert sorted(math.copysign(1, area(path)) for path in paths) == [-1, 1]
    assert sum(map(area, paths)) == pytest.approx(100 * (81 - 9), rel=0.03)


def test_an_outline_passes_over_a_plain_spot() -> None:
    assert len(outlines(box(0, 0, 9, 9) & ~box(3, 3, 6, 4), SQUARE)) == 1
    assert len(outlines(box(0, 0, 9, 9) & ~box(3, 3, 5, 5), SQUARE)) == 2


def test_cells_that_touch_at_a_corner_have_paths_of_their_own() -> None:
    assert len(outlines(box(0, 0, 2, 2) | box(2, 2, 4, 4) | box(0, 4, 2, 6), SQUARE)) == 3


@settings(max_examples=30)
@given(st.integers(0, WHOLE), sides, sides)
def test_every_outline_lies_in_the_picture_and_has_about_the_area_of_its_cells(
    mask: int, width: int, height: int
) -> None:
    picture = Picture(width, height)
    paths = outlines(mask, picture)
    assert all(0 <= point.x <= width and 0 <= point.y <= height for path in paths for point in path)
    corners = [(picture.point(x, y), picture.point(x + 1, y + 1)) for x, y in picture.cells(mask)]
    whole = sum((end.x - start.x) * (end.y - start.y) for start, end in corners)
    # Rounding takes a part of each corner, and gives it back at those that point inwards; small holes are covered.
    assert 0.8 * whole <= sum(map(area, paths)) <= 1.5 * whole + picture.cell**2


@settings(max_examples=15)
@given(st.lists(st.integers(1, WHOLE), max_size=MAX_DRAWN))
def test_a_label_lies_in_its_region(masks: list[int]) -> None:
    for mask, point in zip(masks, label_points(masks, SQUARE), strict=True):
        assert mask >> GRID * int(point.y / 10) + int(point.x / 10) & 1


def test_labels_of_two_works_in_one_region_lie_apart() -> None:
    first, second = label_points([WHOLE, WHOLE], SQUARE)
    assert math.dist(first, second) > 3 * SQUARE.cell


def _luminance(name: str) -> float:
    linear = [(int(name[start : start + 2], 16) / 255) ** 2.2 for start in (1, 3, 5)]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


@pytest.mark.parametrize("place", range(len(PALETTE)))
def test_numbers_are_readable_on_their_colours(place: int) -> None:
    lighter, darker = sorted((_luminance(colour(place)), _luminance(ink(colour(place)))), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) > 4.5
    assert colour(place) == colour(place + len(PALETTE))
