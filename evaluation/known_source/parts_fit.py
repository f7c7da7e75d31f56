"""Maximum-likelihood fit of a policy that counts parts: weights by distance, by windows and by verified regions.

All eleven parameters are fitted together, because they compete for the same cells. The likelihood of an image is
Σ_i s_i log p_i over its known shares, as in `fit`. Gradients are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluation.known_source.observations import Observation
from gmvaluator.ledger.allocation import Group, group_candidates
from gmvaluator.valuation.background import Background
from gmvaluator.valuation.parts import Logit, Parts, PartsRule, cells
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.residual import VirtualContributor
from gmvaluator.valuation.weights import MAX_DISTANCE, MILLION

PARAMETERS = (
    *("temperature", "growth", "none", "window_temperature", "window_growth", "window_none"),
    *("verified_bias", "verified_slope", "elsewhere_bias", "elsewhere_slope"),
    "background",
)
"""Names of the fitted numbers: temperatures and growths as logarithms, "none" as the logit of distance 0, the strength
of the background as a logit."""

START = (math.log(0.0124), math.log(0.063), 12.0, math.log(0.024), math.log(0.038), 11.5, -2.1, 1.5, -4.0, -1.1, 0.5)
"""Temperature and growth are those of `calibrated@2`: the likelihood is flat from here to softer temperatures, and this
end tells a copy's source from works that are nearly as near."""

STEPS, REFIT_STEPS = 140, 20
_RATE, _LAST_RATE = 0.12, 0.03
_PRIOR = 1e-4
"""Weight of the squared distance from `START`, which keeps numbers that the images do not determine in place."""

_FIRST, _LAST = 5, 12
"""Ranks of the background: after the sources of most images, and small enough for a small index."""

_BACKGROUND = Decimal("0.6")
"""The usual background. Another value would change the scale of the fitted numbers, and no share."""

_MEMBERS = Decimal(6)
"""Exponent of the matches in the weights of near-duplicates (`PartsRule.member_weights`): the likeliest on the fitting
images. It decides between members of a group, so that it is not fitted with what decides between groups."""

_MAX_LOGIT = 30.0
_FLOOR = 1e-6
"""Smallest probability that a likelihood counts, as in `fit.mean_log_likelihood`."""

_SEED = 17


@dataclass(frozen=True, slots=True)
class PartsExamples:
    """N images with K contributors and P sets of like cells, as tensors.

    distances, window_distances: (N, K) in [0, 2]; the latter 2 without a window. background: (N,), of the distances;
    the usual one where it is unknown. inliers, sources: (N, K). counts:
    (N, P), each set's part of the content. windows, regions: (N, P, K), 1 where a contributor's window or region holds
    the set. owners: (N,) label that is resampled as a whole.
    """

    distances: Tensor
    window_distances: Tensor
    background: Tensor
    inliers: Tensor
    sources: Tensor
    counts: Tensor
    windows: Tensor
    regions: Tensor
    owners: npt.NDArray[np.str_]

    @property
    def absent(self) -> Tensor:
        """(N,) share of no contributor."""
        return (1 - self.sources.sum(1)).clamp(min=0)


@dataclass(frozen=True, slots=True)
class PartsFit:
    """A fitted rule. numbers: in the order of `PARAMETERS`."""

    numbers: tuple[float, ...]

    def log_likelihood(self, examples: PartsExamples) -> float:
        """Return `log_likelihood` of the examples by these numbers."""
        with torch.no_grad():
            return float(log_likelihood(examples, torch.tensor(self.numbers)))

    def settings(self) -> dict[str, Any]:
        """Return the settings of a policy file, numbers as text of six decimals."""
        temperature, growth, distance = _distance_settings(self.numbers[:3])
        windows = _distance_settings(self.numbers[3:6])
        verified, elsewhere = Logit(*map(_text, self.numbers[6:8])), Logit(*map(_text, self.numbers[8:10]))
        rule = PartsRule(*windows, verified, elsewhere, _MEMBERS)
        return {
            "temperature": str(temperature),
            "temperature_growth": str(growth),
            "residual": VirtualContributor(distance).parameters(),
            "parts": rule.parameters(),
            "background": _background(self.numbers[10]).parameters(),
        }


def _background(logit: float = 0.0) -> Background:
    return Background(_FIRST, _LAST, _BACKGROUND, _text(1 / (1 + math.exp(-logit))))


def _distance_settings(numbers: Sequence[float]) -> tuple[Decimal, Decimal, Decimal]:
    """Return temperature, growth, and the distance at which a weight is that of no contributor."""
    temperature, growth = math.exp(numbers[0]), math.exp(numbers[1])
    distance = temperature * math.expm1(growth * numbers[2]) / growth
    return _text(temperature), _text(growth), _text(min(max(distance, 0.0), MAX_DISTANCE))


def _text(value: float) -> Decimal:
    return Decimal(f"{value:.6f}")


def plain_policy(depth: int, k: int) -> Policy:
    """Return a policy with a rule for parts, by which contributors are ordered before a fit, each work for itself.

    Fitted to groups of near-duplicates, the temperature would not tell a source from its twins inside one.
    """
    return Policy.from_parameters({"policy": "plain@1", "depth": depth, "k": k, **PartsFit(START).settings()})


def parts_examples(observations: Sequence[Observation], policy: Policy) -> PartsExamples:
    """Return the first k contributors of each image under `policy`, with where they were seen."""
    rows = [_row(observation, policy) for observation in observations]
    most = max(len(row.sets) for row in rows)
    examples = PartsExamples(
        distances=torch.full((len(rows), policy.k), float(MAX_DISTANCE)),
        window_distances=torch.full((len(rows), policy.k), float(MAX_DISTANCE)),
        background=torch.full((len(rows),), float(_BACKGROUND)),
        inliers=torch.zeros(len(rows), policy.k),
        sources=torch.zeros(len(rows), policy.k),
        counts=torch.zeros(len(rows), most),
        windows=torch.zeros(len(rows), most, policy.k),
        regions=torch.zeros(len(rows), most, policy.k),
        owners=np.array([observation.query.group for observation in observations]),
    )
    for number, row in enumerate(rows):
        _fill(examples, number, row)
    return examples


@dataclass(frozen=True, slots=True)
class _Row:
    groups: list[Group]
    sources: list[float]
    sets: list[tuple[int, list[int], list[int]]]


def _row(observation: Observation, policy: Policy) -> _Row:
    retrieval = observation.retrieval
    groups = group_candidates(retrieval.candidates(), policy)[: policy.k]
    sources = [
        sum(observation.sources.get(member.training_image_id, 0.0) for member in group.members) for group in groups
    ]
    parts = Parts(retrieval.seen.content or 0, tuple(group.sighting for group in groups))
    return _Row(groups, sources, list(cells(parts)))


def _fill(examples: PartsExamples, number: int, row: _Row) -> None:
    size = len(row.groups)
    sightings = [group.sighting for group in row.groups]
    distances = torch.tensor([group.distance_millionths for group in row.groups], dtype=torch.float32)
    nearest = torch.tensor([sighting.nearest for sighting in sightings], dtype=torch.float32)
    examples.distances[number, :size] = distances / MILLION
    background = _background().of([group.distance_millionths for group in row.groups])
    if background is not None:
        examples.background[number] = background / MILLION
    examples.window_distances[number, :size] = nearest / MILLION
    examples.inliers[number, :size] = torch.tensor([float(sighting.inliers) for sighting in sightings])
    examples.sources[number, :size] = torch.tensor(row.sources)
    total = sum(count for count, _, _ in row.sets)
    for place, (count, windows, regions) in enumerate(row.sets):
        examples.counts[number, place] = count / total
        examples.windows[number, place, windows] = 1
        examples.regions[number, place, regions] = 1


def shares(examples: PartsExamples, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, K) shares of contributors and (N,) shares of no contributor; see `valuation.parts`."""
    everywhere = torch.exp(_logit(_counted(examples, numbers[10]), numbers[:3]))
    seen = examples.window_distances < MAX_DISTANCE
    window = torch.where(seen, torch.exp(_logit(examples.window_distances, numbers[3:6])), 0.0)
    verified = examples.inliers > 0
    logarithm = torch.log(examples.inliers.clamp(min=1))
    region, elsewhere = (
        torch.where(verified, torch.exp((bias + slope * logarithm).clamp(max=_MAX_LOGIT)), 0.0)
        for bias, slope in (numbers[6:8], numbers[8:10])
    )
    weights = (
        (everywhere + elsewhere)[:, None] + window[:, None] * examples.windows + region[:, None] * examples.regions
    )
    units = examples.counts / (1 + weights.sum(2))
    return (weights * units[:, :, None]).sum(1), units.sum(1)


def _counted(examples: PartsExamples, logit: Tensor) -> Tensor:
    """Return the distances by which contributors are weighed; see `valuation.background`."""
    usual = float(_BACKGROUND)
    divisor = usual + torch.sigmoid(logit) * (examples.background - usual)
    return (examples.distances * usual / divisor.clamp(min=1e-6)[:, None]).clamp(max=float(MAX_DISTANCE))


def _logit(distances: Tensor, numbers: Tensor) -> Tensor:
    temperature, growth = torch.exp(numbers[0]), torch.exp(numbers[1])
    return numbers[2] - torch.log1p(growth / temperature * distances) / growth


def log_likelihood(examples: PartsExamples, numbers: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over images of Σ_i s_i log p_i, "no contributor" included; weights: (N,) of the images."""
    contributors, none = shares(examples, numbers)
    value = (examples.sources * torch.log(contributors.clamp(min=_FLOOR))).sum(1)
    value = value + examples.absent * torch.log(none.clamp(min=_FLOOR))
    return value.mean() if weights is None else (value * weights).sum() / weights.sum()


def fit_parts(
    examples: PartsExamples,
    start: Sequence[float] = START,
    steps: int = STEPS,
    weights: Tensor | None = None,
) -> PartsFit:
    """Fit all numbers by gradient ascent from `start`."""
    prior = torch.tensor(START)
    numbers = torch.tensor(list(start), requires_grad=True)
    optimiser = torch.optim.Adam([numbers], lr=_RATE)
    for step in range(steps):
        if step == steps * 7 // 10:
            optimiser.param_groups[0]["lr"] = _LAST_RATE
        optimiser.zero_grad()
        loss = _PRIOR * ((numbers - prior) ** 2).sum() - log_likelihood(examples, numbers, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return PartsFit(tuple(numbers.detach().tolist()))


def bootstrap_parts(examples: PartsExamples, fit: PartsFit, count: int) -> list[PartsFit]:
    """Fit again to `count` resamples of whole owners, to measure the uncertainty of the fit."""
    rng = np.random.default_rng(_SEED)
    names, members = np.unique(examples.owners, return_inverse=True)
    refits = []
    for _ in range(count):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        weights = torch.from_numpy(drawn[members].astype(np.float32))
        refits.append(fit_parts(examples, fit.numbers, REFIT_STEPS, weights))
    return refits
