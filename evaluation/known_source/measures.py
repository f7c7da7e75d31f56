"""What is measured of a row: credit to sources, to nobody, calibration, compositions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from evaluation.known_source.observations import Observation
from evaluation.known_source.policies import Divided
from evaluation.known_source.queries import COMPOSED, NOISE, RECONSTRUCTION
from evaluation.report.plots import interval, mean_interval
from evaluation.report.sections import Estimate

BINS = 10
Values = npt.NDArray[np.float64]
Wanted = Callable[[Observation], bool]


def is_single(one: Observation) -> bool:
    """Made from one work by a recipe."""
    return one.single


def is_foreign(one: Observation) -> bool:
    """Made from no work of the index."""
    return not one.sources


def is_kind(*kinds: str) -> Wanted:
    """Of one of these kinds."""
    return lambda one: one.query.kind in kinds


def rows_of(observations: Sequence[Observation], wanted: Wanted) -> npt.NDArray[np.intp]:
    """Rows of the observations that are wanted."""
    return np.flatnonzero([wanted(one) for one in observations])


def groups_of(observations: Sequence[Observation]) -> npt.NDArray[np.str_]:
    """(N,) what is resampled whole."""
    return np.array([one.query.group for one in observations])


def credit(divided: Divided, wanted: Wanted) -> Estimate:
    """Mean share of the true sources."""
    return _mean(divided, divided.to_sources, wanted)


def unattributed(divided: Divided, wanted: Wanted) -> Estimate:
    """Mean share of nobody."""
    return _mean(divided, divided.unattributed, wanted)


def _mean(divided: Divided, values: Values, wanted: Wanted) -> Estimate:
    rows = rows_of(divided.observations, wanted)
    return mean_interval(values[rows], groups_of(divided.observations)[rows])


def source_within(observations: Sequence[Observation], rank: int, recalled: bool) -> Estimate:
    """Share of images of one source whose source is among the first `rank`, by recall or by perceptual distance."""
    singles = [one for one in observations if one.single]
    places = [(one.recall_ranks if recalled else one.ranks)[0] for one in singles]
    return mean_interval(np.array(places) < rank, groups_of(singles))


def composition_error(divided: Divided) -> Estimate:
    """Mean absolute difference between a source's known share and its credit, over images of two and three."""
    rows = rows_of(divided.observations, is_kind(*COMPOSED))
    errors = []
    for row in rows:
        shares = divided.divisions[row].shares
        known = divided.observations[row].sources
        errors.append(np.mean([abs(weight - shares.get(source, 0.0)) for source, weight in known.items()]))
    return mean_interval(errors, groups_of(divided.observations)[rows])


def absent_auc(divided: Divided, wanted: Wanted = is_foreign) -> Estimate:
    """Area under the curve that tells images without a source (those wanted) from images of one, by nobody's share."""
    foreign, singles = rows_of(divided.observations, wanted), rows_of(divided.observations, is_single)
    rows = np.concatenate([singles, foreign])
    pairs = np.stack([divided.unattributed[rows], np.isin(rows, foreign)], axis=1)
    return interval(pairs, _auc, groups_of(divided.observations)[rows])


def _auc(pairs: Values) -> float:
    """Mann and Whitney's statistic, ties counted half. pairs: (N, 2) score, and 1 for what should score higher."""
    scores, wanted = pairs[:, 0], pairs[:, 1] > 0
    high, low = int(wanted.sum()), int((~wanted).sum())
    if not high or not low:
        return float("nan")
    return float((rankdata(scores)[wanted].sum() - high * (high + 1) / 2) / (high * low))


@dataclass(frozen=True, slots=True)
class Reliability:
    """The largest share of each image read as a probability. claimed, true, count: (BINS,) mean share, how often its
    owner (a work, or nobody) was the source, and images. error: mean difference between both, weighted by count."""

    claimed: Values
    true: Values
    count: Values
    error: float


def is_plain(one: Observation) -> bool:
    """A derivative of one work, a copy, or foreign: neither composed nor reconstructed."""
    return len(one.sources) <= 1 and one.query.kind != RECONSTRUCTION


def reliability(divided: Divided, wanted: Wanted = is_plain) -> Reliability:
    """Of the images that are wanted; of a composition any of its sources is right."""
    claims, hits = [], []
    for one, division in zip(divided.observations, divided.divisions, strict=True):
        if not wanted(one):
            continue
        named = max(division.shares, key=lambda work: division.shares[work], default=None)
        share = division.shares[named] if named is not None else 0.0
        if division.unattributed >= share:
            claims.append(division.unattributed)
            hits.append(not one.sources)
        else:
            claims.append(share)
            hits.append(named in one.sources)
    return _binned(np.array(claims), np.array(hits, dtype=np.float64))


def _binned(claims: Values, hits: Values) -> Reliability:
    places = np.minimum((claims * BINS).astype(int), BINS - 1)
    count = np.bincount(places, minlength=BINS).astype(np.float64)
    safe = np.maximum(count, 1)
    claimed = np.bincount(places, claims, BINS) / safe
    true = np.bincount(places, hits, BINS) / safe
    return Reliability(claimed, true, count, float((count * np.abs(claimed - true)).sum() / count.sum()))


def is_any(_one: Observation) -> bool:
    """Every image."""
    return True


is_stranger = is_kind("stranger")
is_photo_or_noise = is_kind("photo", NOISE)
