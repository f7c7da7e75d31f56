"""Selection of the crops that MANIQA scores."""

import numpy as np
import pytest

from gmvaluator.models.known_models import ALL_CROPS
from gmvaluator.models.preprocessing import CROP_SIDE_PX, chosen_crops, crops_if_smaller

LARGE = (CROP_SIDE_PX + 400, CROP_SIDE_PX + 800)


def test_all_crops_are_the_upper_four_rows_of_five() -> None:
    assert chosen_crops(*LARGE, ALL_CROPS) == [(100 * row, 200 * column) for row in range(4) for column in range(5)]


def test_one_crop_is_the_middle() -> None:
    assert chosen_crops(*LARGE, 1) == [(200, 400)]


@pytest.mark.parametrize("count", range(1, ALL_CROPS))
def test_one_more_keeps_those_before(count: int) -> None:
    fewer, more = chosen_crops(*LARGE, count), chosen_crops(*LARGE, count + 1)
    assert len(fewer) == count
    assert set(fewer) < set(more)


def test_an_image_of_a_crop_s_size_is_seen_whole_each_time() -> None:
    assert set(chosen_crops(CROP_SIDE_PX, CROP_SIDE_PX, ALL_CROPS)) == {(0, 0)}


def test_a_large_image_waits_as_its_crops_and_a_small_one_as_it_is() -> None:
    random = np.random.default_rng(0)
    large = random.integers(0, 255, (3, *LARGE), np.uint8)
    crops = crops_if_smaller(large, 2)
    assert crops.shape == (2, 3, CROP_SIDE_PX, CROP_SIDE_PX)
    for crop, (top, left) in zip(crops, chosen_crops(*LARGE, 2), strict=True):
        np.testing.assert_array_equal(crop, large[:, top : top + CROP_SIDE_PX, left : left + CROP_SIDE_PX])
    assert crops_if_smaller(large, ALL_CROPS).shape == large.shape
    narrow = random.integers(0, 255, (3, 100, 30_000), np.uint8)
    np.testing.assert_array_equal(crops_if_smaller(narrow, 1), narrow)
