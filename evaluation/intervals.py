"""Bootstrap intervals of means, seeded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from evaluation.sections import Estimate

RESAMPLES = 2_000
_SEED = 95

Values = npt.NDArray[np.float64]


def mean_interval(values: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Estimate:
    """Mean of N values with the 95 % percentile interval of 2,000 resamples.

    groups: a label for each value; whole groups are drawn then, as the works of one artist resemble each other.
    Raises ValueError if there are no values.
    """
    return interval(values, lambda sample: float(sample.mean()), groups)


def interval(
    values: npt.ArrayLike, statistic: Callable[[Values], float], groups: npt.ArrayLike | None = None
) -> Estimate:
    """As `mean_interval` for any statistic of (N, ...) values: it is given resampled rows."""
    rows = np.asarray(values, dtype=np.float64)
    if not len(rows):
        raise ValueError("there are no values to take an interval of")
    rng = np.random.default_rng(_SEED)
    draw = _drawing(len(rows), groups)
    drawn = [statistic(rows[draw(rng)]) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Estimate(statistic(rows), float(low), float(high))


def _drawing(count: int, groups: npt.ArrayLike | None) -> Callable[[np.random.Generator], npt.NDArray[np.int64]]:
    """How one resample's rows are drawn."""
    if groups is None:
        return lambda rng: rng.integers(0, count, count)
    labels = np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return lambda rng: np.concatenate([members[pick] for pick in rng.integers(0, len(members), len(members))])
