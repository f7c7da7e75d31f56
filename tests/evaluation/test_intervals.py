"""Bootstrap intervals cover the mean, repeat, and widen when values come in groups."""

import numpy as np
import pytest
from scipy.stats import rankdata

from evaluation.report.plots import auc, interval, mean_interval


def test_an_interval_holds_the_mean_and_repeats() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 200)
    one = mean_interval(values)
    assert one.low < one.value < one.high
    assert one.value == pytest.approx(values.mean())
    assert one == mean_interval(values)


def test_values_that_move_together_say_less() -> None:
    level = np.random.default_rng(2).normal(size=10)
    values = np.repeat(level, 50)
    alone, grouped = mean_interval(values), mean_interval(values, np.repeat(np.arange(10), 50))
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)


@pytest.mark.parametrize("groups", [None, np.arange(90) % 7, np.arange(90) // 60])
def test_the_interval_of_a_mean_is_that_of_its_resampled_rows(
    groups: np.ndarray[tuple[int], np.dtype[np.int64]] | None,
) -> None:
    values = np.random.default_rng(4).normal(size=90)
    values[5] = np.nan
    for some in (values, np.nan_to_num(values)):
        fast, plain = mean_interval(some, groups), interval(some, lambda sample: float(sample.mean()), groups)
        assert (fast.value, fast.low, fast.high) == pytest.approx((plain.value, plain.low, plain.high), nan_ok=True)


def test_an_area_under_the_curve_is_that_of_the_ranks() -> None:
    random = np.random.default_rng(5)
    for _ in range(20):
        scores, positive = random.integers(0, 9, 30).astype(float), random.random(30) < 0.3
        high, low = positive.sum(), (~positive).sum()
        by_ranks = (rankdata(scores)[positive].sum() - high * (high + 1) / 2) / (high * low)
        assert auc(scores, positive) == pytest.approx(by_ranks)
    assert np.isnan(auc(np.zeros(3), np.zeros(3, dtype=bool)))


def test_any_statistic_of_rows_has_an_interval() -> None:
    rows = np.random.default_rng(3).normal(size=(100, 2))
    found = interval(rows, lambda sample: float(np.median(sample[:, 1])))
    assert found.low <= found.value <= found.high


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
