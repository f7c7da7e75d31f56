"""Maximum-likelihood fits of a policy: the temperature with its growth, and the residual in both its forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp

from evaluation.known_source.observations import Observation
from gmvaluator.ledger.allocation import group_candidates
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MAX_DISTANCE, MILLION


@dataclass(frozen=True, slots=True)
class Examples:
    """N images with their k nearest works, as a fit sees them.

    distances: (N, k) in [0, 2], nearest first. sources: (N, k), the share of each work in the image; what is missing
    to one is the share of no contributor. groups: (N,) artist or photograph.
    """

    distances: Values
    sources: Values
    groups: npt.NDArray[np.str_]

    @property
    def absent(self) -> Values:
        """Return the (N,) share of no contributor: 1 for a foreign image, and the share of sources that were not
        recalled."""
        absent: Values = 1 - self.sources.sum(axis=1)
        return absent

    def rows(self, chosen: npt.NDArray[np.intp]) -> Examples:
        """Return the examples of these rows only."""
        return Examples(self.distances[chosen], self.sources[chosen], self.groups[chosen])


def examples_of(observations: Sequence[Observation], policy: Policy) -> Examples:
    """Return the first k contributors of each image; near-duplicates count as one if the policy has groups."""
    distances = np.full((len(observations), policy.k), float(MAX_DISTANCE))
    sources = np.zeros((len(observations), policy.k))
    for row, observation in enumerate(observations):
        groups = group_candidates(observation.retrieval.candidates(), policy)[: policy.k]
        distances[row, : len(groups)] = np.array([group.distance_millionths for group in groups]) / MILLION
        sources[row, : len(groups)] = [
            sum(observation.sources.get(member.training_image_id, 0.0) for member in group.members) for group in groups
        ]
    return Examples(distances, sources, np.array([observation.query.group for observation in observations]))


def log_weights(distances: Values, temperature: float, growth: float = 0.0) -> Values:
    """Return the logarithms of `valuation.similarity_weights`, up to a constant."""
    if not growth:
        return -distances / temperature
    logs: Values = -np.log1p(growth / temperature * distances) / growth
    return logs


def contributor_log_shares(distances: Values, temperature: float, growth: float = 0.0) -> Values:
    """Return the (N, k) logarithm of equation 5: the contributors' shares among themselves at a temperature."""
    logs = log_weights(distances, temperature, growth)
    log_shares: Values = logs - logsumexp(logs, axis=1, keepdims=True)
    return log_shares


def virtual_logit(distances: Values, temperature: float, growth: float, distance: float) -> Values:
    """Return the (N,) logit of "no contributor" for a virtual contributor at `distance`."""
    absent = log_weights(np.array(distance), temperature, growth)
    logit: Values = absent - logsumexp(log_weights(distances, temperature, growth), axis=1)
    return logit


def gate_logit(distances: Values, bias: float, ranks: Sequence[int], coefficients: Sequence[float]) -> Values:
    """Return the (N,) logit of "no contributor" from the distances at `ranks`, counted from 1."""
    logit: Values = bias + distances[:, np.array(ranks) - 1] @ np.asarray(coefficients)
    return logit


def mean_log_likelihood(examples: Examples, log_shares: Values, logit: Values | None) -> float:
    """Return the mean over images of Σ_i s_i log p_i, where s are the known shares, "no contributor" included.

    logit: None for a policy without a residual; images without a source then count as impossible down to 10^-6, the
    floor of all probabilities.
    """
    kept = np.zeros(len(log_shares)) if logit is None else -np.logaddexp(0, logit)
    absent = np.full(len(log_shares), -np.inf) if logit is None else -np.logaddexp(0, -logit)
    floor = np.log(1e-6)
    likelihood = (examples.sources * np.maximum(log_shares + kept[:, None], floor)).sum(axis=1)
    return float((likelihood + examples.absent * np.maximum(absent, floor)).mean())


RANK_SETS = ((1,), (1, 2), (1, 3, 10), (1, 2, 5, 20), (1, 2, 5, 10, 50))
"""Ranks that are compared: the nearest alone, with the gap behind it, and with the density around it."""

RIDGES = (0.001, 0.01, 0.1)
FOLDS = 5
_SEED = 17
_PRECISE = {"xatol": 1e-4, "fatol": 1e-7, "maxiter": 1_000}
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VirtualFit:
    """The likeliest temperature τ with its growth, and the likeliest distance d_0 of the virtual contributor."""

    temperature: float
    growth: float
    distance: float

    def log_likelihood(self, examples: Examples) -> float:
        logit = virtual_logit(examples.distances, self.temperature, self.growth, self.distance)
        log_shares = contributor_log_shares(examples.distances, self.temperature, self.growth)
        return mean_log_likelihood(examples, log_shares, logit)


@dataclass(frozen=True, slots=True)
class GateFit:
    """The contributors' temperature τ and its growth, with a logistic regression for "no contributor".

    ridge: the regularisation of that regression.
    """

    temperature: float
    growth: float
    bias: float
    ranks: tuple[int, ...]
    coefficients: tuple[float, ...]
    ridge: float = 0.0

    def settings(self) -> dict[str, Any]:
        """Return the settings of a policy file, numbers as text of six decimals."""
        ranks = {str(rank): f"{value:.6f}" for rank, value in zip(self.ranks, self.coefficients, strict=True)}
        return {
            "temperature": f"{self.temperature:.6f}",
            "temperature_growth": f"{self.growth:.6f}",
            "residual": {"bias": f"{self.bias:.6f}", "ranks": ranks},
        }

    def log_likelihood(self, examples: Examples) -> float:
        logit = gate_logit(examples.distances, self.bias, self.ranks, self.coefficients)
        log_shares = contributor_log_shares(examples.distances, self.temperature, self.growth)
        return mean_log_likelihood(examples, log_shares, logit)


def fit_temperature(examples: Examples) -> float:
    """Fit one temperature for all distances, over the images that have a source."""

    def loss(log_temperature: float) -> float:
        log_shares = contributor_log_shares(examples.distances, float(np.exp(log_temperature)))
        return -float((examples.sources * log_shares).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.002), np.log(2.0)), method="bounded").x))


def fit_growing_temperature(examples: Examples) -> tuple[float, float]:
    """Fit the temperature at distance 0 and its growth; equal to `fit_temperature` where growth does not help."""

    def loss(point: Values) -> float:
        return -float((examples.sources * contributor_log_shares(examples.distances, *_held(point))).sum())

    best = minimize(loss, [np.log(fit_temperature(examples) / 3), np.log(0.05)], method="Nelder-Mead", options=_PRECISE)
    return _held(best.x)


def _held(logs: Values) -> tuple[float, float]:
    """Return temperature and growth from their logarithms, within the range a policy file allows."""
    temperature, growth = np.exp(np.clip(logs, np.log([1e-3, 1e-4]), np.log([2.0, 2.0])))
    return float(temperature), float(growth)


def fit_virtual(examples: Examples) -> VirtualFit:
    """Fit temperature, growth and d_0 together."""

    def loss(point: Values) -> float:
        return -VirtualFit(*_held(point[:2]), float(point[2])).log_likelihood(examples)

    start = [*np.log(fit_growing_temperature(examples)), float(np.median(examples.distances[:, 0]))]
    best = minimize(loss, start, method="Nelder-Mead", options=_PRECISE).x
    return VirtualFit(*_held(best[:2]), float(np.clip(best[2], 0, 2)))


def fit_gate(
    examples: Examples, ranks: Sequence[int], ridge: float, temperature: tuple[float, float] | None = None
) -> GateFit:
    """Fit the temperature, and the gate on the distances at `ranks`.

    ridge: penalty on the standardised coefficients. temperature: temperature and growth where they are known already;
    they do not depend on the gate.
    """
    features = examples.distances[:, np.array(ranks) - 1]
    shift, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    standard, absent = (features - shift) / scale, examples.absent

    def loss(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        logit = point[0] + standard @ point[1:]
        error = (expit(logit) - absent) / len(absent)
        value = float((np.logaddexp(0, logit) - absent * logit).mean() + ridge * (point[1:] ** 2).sum())
        return value, np.concatenate([[error.sum()], standard.T @ error + 2 * ridge * point[1:]])

    best = minimize(loss, np.zeros(len(ranks) + 1), jac=True, method="L-BFGS-B").x
    coefficients = best[1:] / scale
    bias = float(best[0] - coefficients @ shift)
    fitted = fit_growing_temperature(examples) if temperature is None else temperature
    return GateFit(*fitted, bias, tuple(ranks), tuple(float(value) for value in coefficients), ridge)


def choose_gate(examples: Examples) -> GateFit:
    """Choose the ranks and the ridge that are likeliest on artists left out of the fit, then fit that gate to all
    examples."""
    temperature = fit_growing_temperature(examples)
    choices = [(ranks, ridge) for ranks in RANK_SETS for ridge in RIDGES]
    best = max(choices, key=lambda choice: _left_out(examples, choice[0], choice[1], temperature))
    return fit_gate(examples, best[0], best[1], temperature)


def _left_out(examples: Examples, ranks: Sequence[int], ridge: float, temperature: tuple[float, float]) -> float:
    scores = [
        fit_gate(examples.rows(fit), ranks, ridge, temperature).log_likelihood(examples.rows(left)) * len(left)
        for fit, left in _folds(examples.groups)
    ]
    return sum(scores) / len(examples.groups)


def _folds(groups: npt.NDArray[np.str_]) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    names = np.random.default_rng(_SEED).permutation(np.unique(groups))
    for fold in range(FOLDS):
        left = np.isin(groups, names[fold::FOLDS])
        yield np.flatnonzero(~left), np.flatnonzero(left)


def bootstrap_gates(examples: Examples, gate: GateFit, count: int) -> list[GateFit]:
    """Fit the same gate to `count` resamples of whole artists, to measure the uncertainty of the fit."""
    rng = np.random.default_rng(_SEED)
    members = [np.flatnonzero(examples.groups == name) for name in np.unique(examples.groups)]
    draws = rng.integers(0, len(members), (count, len(members)))
    return [
        fit_gate(examples.rows(np.concatenate([members[pick] for pick in draw])), gate.ranks, gate.ridge)
        for draw in draws
    ]
