"""Tests of the deviation of MANIQA's quality by fewer crops."""

import numpy as np
import pytest

from evaluation.bench.precision import COUNTS, deviations


def test_crops_that_agree_do_not_deviate() -> None:
    figures = deviations([np.tile([0.3, 0.6], (20, 1))])
    assert figures["quality_mean"] == pytest.approx(0.5)
    assert all(figures[f"crops_{count}_deviation_max"] == pytest.approx(0, abs=1e-6) for count in COUNTS)


def test_the_centre_is_the_one_crop_that_is_compared() -> None:
    sums = np.tile([0.5, 1.0], (20, 1))
    sums[12] = [1.0, 1.0]
    assert deviations([sums])["crops_1_deviation_mean"] == pytest.approx(1.0 - 10.5 / 20)
