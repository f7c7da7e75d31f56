"""Bootstrap intervals cover the mean, repeat, and widen when values come in groups."""

import numpy as np
import pytest

from evaluation.report.plots import interval, mean_interval


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


def test_any_statistic_of_rows_has_an_interval() -> None:
    rows = np.random.default_rng(3).normal(size=(100, 2))
    found = interval(rows, lambda sample: float(np.median(sample[:, 1])))
    assert found.low <= found.value <= found.high


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
