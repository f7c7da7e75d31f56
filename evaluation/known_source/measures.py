"""Measures of a policy on known sources: credit to sources, unattributed credit, calibration, composition error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.known_source.observations import Observation
from evaluation.known_source.policies import PolicyShares
from evaluation.known_source.queries import NOISE, RECONSTRUCTION
from evaluation.report.plots import auc, interval, mean_interval
from evaluation.report.sections import Estimate
from gmvaluator.local_features.sightings import MAX_EXAMINED

BINS = 10
Values = npt.NDArray[np.float64]
Selector = Callable[[Observation], bool]


def is_single(observation: Observation) -> bool:
    """Return whether the image was made from one work by a recipe."""
    return observation.single


def is_foreign(observation: Observation) -> bool:
    """Return whether the image was made from no work of the index."""
    return not observation.sources


def is_kind(*kinds: str) -> Selector:
    """Select observations of these kinds."""
    return lambda observation: observation.query.kind in kinds


def rows_of(observations: Sequence[Observation], selects: Selector) -> npt.NDArray[np.intp]:
    """Return the row numbers of the selected observations."""
    return np.flatnonzero([selects(observation) for observation in observations])


def groups_of(observations: Sequence[Observation]) -> npt.NDArray[np.str_]:
    """Return the (N,) labels that are resampled as a whole for intervals."""
    return np.array([observation.query.group for observation in observations])


def credit(shares: PolicyShares, selects: Selector) -> Estimate:
    """Return the mean share of the true sources."""
    return _mean(shares, shares.to_sources, selects)


def unattributed(shares: PolicyShares, selects: Selector) -> Estimate:
    """Return the mean unattributed share."""
    return _mean(shares, shares.unattributed, selects)


def _mean(shares: PolicyShares, values: Values, selects: Selector) -> Estimate:
    rows = rows_of(shares.observations, selects)
    return mean_interval(values[rows], groups_of(shares.observations)[rows])


def source_within(observations: Sequence[Observation], rank: int, recalled: bool) -> Estimate:
    """Return the share of single-source images whose source is among the first `rank` works.

    recalled: rank by recall instead of perceptual distance.
    """
    singles = [observation for observation in observations if observation.single]
    places = [(single.recall_ranks if recalled else single.ranks)[0] for single in singles]
    return mean_interval(np.array(places) < rank, groups_of(singles))


def is_composed(observation: Observation) -> bool:
    """Return whether the image shows several works."""
    return len(observation.sources) > 1


def composition_error(shares: PolicyShares, selects: Selector = is_composed) -> Estimate:
    """Return the mean absolute difference between known share and credit, over the sources of each composition."""
    rows = rows_of(shares.observations, selects)
    errors = []
    for row in rows:
        by_work = shares.divisions[row].shares
        known = shares.observations[row].sources
        errors.append(np.mean([abs(weight - by_work.get(source, 0.0)) for source, weight in known.items()]))
    return mean_interval(errors, groups_of(shares.observations)[rows])


def further_sources_found(shares: PolicyShares, selects: Selector = is_composed) -> Estimate:
    """Return how many of a composition's sources but its largest receive at least half of their share of the image."""
    paid_half: list[float] = []
    groups: list[str] = []
    for row in rows_of(shares.observations, selects):
        observation, credited = shares.observations[row], shares.divisions[row].shares
        for source, share in sorted(observation.sources.items(), key=lambda item: -item[1])[1:]:
            paid_half.append(float(credited.get(source, 0.0) >= share / 2))
            groups.append(observation.query.group)
    return mean_interval(paid_half, np.array(groups))


def absent_auc(shares: PolicyShares, selects: Selector = is_foreign) -> Estimate:
    """Return the area under the ROC curve of the unattributed share, for selected images against single-source
    images."""
    foreign, singles = rows_of(shares.observations, selects), rows_of(shares.observations, is_single)
    rows = np.concatenate([singles, foreign])
    pairs = np.stack([shares.unattributed[rows], np.isin(rows, foreign)], axis=1)
    return interval(pairs, lambda sample: auc(sample[:, 0], sample[:, 1] > 0), groups_of(shares.observations)[rows])


@dataclass(frozen=True, slots=True)
class Reliability:
    """The largest share of each image, read as a probability.

    claimed, true, count: (BINS,) mean share, how often its account (a work, or unattributed) was right, and number of
    images. error: mean difference of claimed and true, weighted by count.
    """

    claimed: Values
    true: Values
    count: Values
    error: float


def is_plain(observation: Observation) -> bool:
    """Return whether the image is a derivative of one work, a copy or foreign: neither composed nor reconstructed."""
    return len(observation.sources) <= 1 and observation.query.kind != RECONSTRUCTION


def reliability(shares: PolicyShares, selects: Selector = is_plain) -> Reliability:
    """Measure the calibration over the selected images; for a composition any of its sources is right."""
    claims, hits = [], []
    for observation, division in zip(shares.observations, shares.divisions, strict=True):
        if not selects(observation):
            continue
        named = max(division.shares, key=lambda work: division.shares[work], default=None)
        share = division.shares[named] if named is not None else 0.0
        if division.unattributed >= share:
            claims.append(division.unattributed)
            hits.append(not observation.sources)
        else:
            claims.append(share)
            hits.append(named in observation.sources)
    return _binned(np.array(claims), np.array(hits, dtype=np.float64))


def _binned(claims: Values, hits: Values) -> Reliability:
    places = np.minimum((claims * BINS).astype(int), BINS - 1)
    count = np.bincount(places, minlength=BINS).astype(np.float64)
    safe = np.maximum(count, 1)
    claimed = np.bincount(places, claims, BINS) / safe
    true = np.bincount(places, hits, BINS) / safe
    return Reliability(claimed, true, count, float((count * np.abs(claimed - true)).sum() / count.sum()))


def is_any(_one: Observation) -> bool:
    """Select every image."""
    return True


is_stranger = is_kind("stranger")
is_photo_or_noise = is_kind("photo", NOISE)


def sources_recalled(observations: Sequence[Observation]) -> Estimate:
    """Return the share of the sources of compositions that are among the candidates, by whatever window."""
    composed = [observation for observation in observations if len(observation.sources) > 1]
    shares = [
        np.mean([source in observation.retrieval.reranked for source in observation.sources])
        for observation in composed
    ]
    return mean_interval(np.array(shares), groups_of(composed))


def wrongly_verified_per_thousand(observations: Sequence[Observation]) -> Estimate:
    """Return how many of 1,000 works that foreign images were compared with were verified in them."""
    foreign = [observation for observation in observations if is_foreign(observation)]
    verified = [
        sum(sighting.inliers > 0 for sighting in observation.retrieval.seen.sightings.values())
        for observation in foreign
    ]
    return mean_interval(1_000 * np.array(verified) / MAX_EXAMINED, groups_of(foreign))
