"""Intrinsic dimension: in how many directions a set of vectors really spreads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.bench.index.truth import nearest
from gmvaluator.ports import Float32Array

SAMPLE = 10_000
DISCARDED = 0.1
"""Share of the largest ratios that is left out: they belong to outliers, as the authors advise."""

_COPY = 1e-4


def two_nn_dimension(rows: Float32Array, seed: int = 0) -> float:
    """The estimator TwoNN of Facco et al., 2017 (doi:10.1038/s41598-017-11873-y), over `SAMPLE` of the rows.

    For each, µ = r2 / r1, the distances of its second and first neighbour; the dimension is the slope through the
    origin of -log(1 - F(µ)) against log µ. Copies, at no distance, are left out.
    """
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
    sample = rows[np.sort(chosen)]
    _, similarities = nearest(sample, sample, 3)
    ordered = np.sort(np.maximum(2 - 2 * similarities, 0) ** 0.5, axis=1)
    first, second = ordered[:, 1], ordered[:, 2]
    return _slope(np.sort((second / np.maximum(first, _COPY))[first > _COPY]))


def _slope(ratios: npt.NDArray[np.floating]) -> float:
    kept = int(len(ratios) * (1 - DISCARDED))
    logs = np.log(ratios[:kept])
    heights = -np.log(1 - np.arange(1, kept + 1) / len(ratios))
    return float((logs * heights).sum() / (logs * logs).sum())
