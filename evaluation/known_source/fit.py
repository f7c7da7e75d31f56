"""Maximum likelihood: τ with its growth, and the residual in both its forms.

How likely a policy's shares make the known sources: what calibrating maximises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    """N images with their k nearest. distances: (N, k) in [0, 2], nearest first. sources: (N, k), the share of each
    of them in the image; what is missing to one is the share of no contributor. groups: (N,) artist or photograph.
    """

    distances: Values
    sources: Values
    groups: npt.NDArray[np.str_]

    @property
    def absent(self) -> Values:
        """(N,) share of no contributor: 1 for a foreign image, and what was made from works that were not found."""
        absent: Values = 1 - self.sources.sum(axis=1)
        return absent

    def rows(self, chosen: npt.NDArray[np.intp]) -> Examples:
        """Those examples alone."""
        return Examples(self.distances[chosen], self.sources[chosen], self.groups[chosen])


def examples_of(observations: Sequence[Observation], policy: Policy) -> Examples:
    """The first k contributors of each image, near-copies being one where the policy has groups."""
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
    """Logs of what `valuation.similarity_weights` makes of distances, up to a constant."""
    if not growth:
        return -distances / temperature
    logs: Values = -np.log1p(growth / temperature * distances) / growth
    return logs


def contributor_log_shares(distances: Values, temperature: float, growth: float = 0.0) -> Values:
    """(N, k) log of equation 5 at a temperature: the shares of the contributors among themselves."""
    logs = log_weights(distances, temperature, growth)
    log_shares: Values = logs - logsumexp(logs, axis=1, keepdims=True)
    return log_shares


def virtual_logit(distances: Values, temperature: float, growth: float, distance: float) -> Values:
    """(N,) logit of no contributor where it is one more, at `distance`."""
    nobody = log_weights(np.array(distance), temperature, growth)
    logit: Values = nobody - logsumexp(log_weights(distances, temperature, growth), axis=1)
    return logit


def gate_logit(distances: Values, bias: float, ranks: Sequence[int], coefficients: Sequence[float]) -> Values:
    """(N,) logit of no contributor by the distances at `ranks`, from 1."""
    logit: Values = bias + distances[:, np.array(ranks) - 1] @ np.asarray(coefficients)
    return logit


def mean_log_likelihood(examples: Examples, log_shares: Values, logit: Values | None) -> float:
    """Mean over images of Σ_i s_i log p_i, s being the known shares, of no contributor too.

    logit: None for a policy that leaves nothing to nobody; then images without a source count as impossible up to
    10^-6, as all probabilities do.
    """
    kept = np.zeros(len(log_shares)) if logit is None else -np.logaddexp(0, logit)
    nobody = np.full(len(log_shares), -np.inf) if logit is None else -np.logaddexp(0, -logit)
    floor = np.log(1e-6)
    likelihood = (examples.sources * np.maximum(log_shares + kept[:, None], floor)).sum(axis=1)
    return float((likelihood + examples.absent * np.maximum(nobody, floor)).mean())


RANK_SETS = ((1,), (1, 2), (1, 3, 10), (1, 2, 5, 20), (1, 2, 5, 10, 50))
"""Gates that are compared: on the nearest alone, with the gap behind it, and with how dense it is around."""

RIDGES = (0.001, 0.01, 0.1)
FOLDS = 5
_SEED = 17
_PRECISE = {"xatol": 1e-4, "fatol": 1e-7, "maxiter": 1_000}
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VirtualFit:
    """τ, its growth and d_0 that make the known sources likeliest together."""

    temperature: float
    growth: float
    distance: float

    def log_likelihood(self, examples: Examples) -> float:
        logit = virtual_logit(examples.distances, self.temperature, self.growth, self.distance)
        log_shares = contributor_log_shares(examples.distances, self.temperature, self.growth)
        return mean_log_likelihood(examples, log_shares, logit)


@dataclass(frozen=True, slots=True)
class GateFit:
    """τ and its growth for the contributors, and a logistic regression for no contributor. ridge: what its fit was
    held by."""

    temperature: float
    growth: float
    bias: float
    ranks: tuple[int, ...]
    coefficients: tuple[float, ...]
    ridge: float = 0.0

    def log_likelihood(self, examples: Examples) -> float:
        logit = gate_logit(examples.distances, self.bias, self.ranks, self.coefficients)
        log_shares = contributor_log_shares(examples.distances, self.temperature, self.growth)
        return mean_log_likelihood(examples, log_shares, logit)


def fit_temperature(examples: Examples) -> float:
    """τ of the contributors among themselves, the same at any distance, over the images that have a source."""

    def loss(log_temperature: float) -> float:
        log_shares = contributor_log_shares(examples.distances, float(np.exp(log_temperature)))
        return -float((examples.sources * log_shares).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.002), np.log(2.0)), method="bounded").x))


def fit_growing_temperature(examples: Examples) -> tuple[float, float]:
    """τ at the distance 0 and its growth, as `fit_temperature` where one that grows is no likelier."""

    def loss(point: Values) -> float:
        return -float((examples.sources * contributor_log_shares(examples.distances, *_held(point))).sum())

    best = minimize(loss, [np.log(fit_temperature(examples) / 3), np.log(0.05)], method="Nelder-Mead", options=_PRECISE)
    return _held(best.x)


def _held(logs: Values) -> tuple[float, float]:
    """τ and growth from their logarithms, within what a policy's file can say."""
    temperature, growth = np.exp(np.clip(logs, np.log([1e-3, 1e-4]), np.log([2.0, 2.0])))
    return float(temperature), float(growth)


def fit_virtual(examples: Examples) -> VirtualFit:
    """τ, its growth and d_0 together."""

    def loss(point: Values) -> float:
        return -VirtualFit(*_held(point[:2]), float(point[2])).log_likelihood(examples)

    start = [*np.log(fit_growing_temperature(examples)), float(np.median(examples.distances[:, 0]))]
    best = minimize(loss, start, method="Nelder-Mead", options=_PRECISE).x
    return VirtualFit(*_held(best[:2]), float(np.clip(best[2], 0, 2)))


def fit_gate(
    examples: Examples, ranks: Sequence[int], ridge: float, temperature: tuple[float, float] | None = None
) -> GateFit:
    """τ, and the gate on the distances at `ranks`; ridge holds its standardised coefficients down.

    temperature: τ and its growth where they are known; they do not depend on the gate.
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
    """The gate whose ranks and ridge are likeliest on artists left out of its fit, fitted to all."""
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
    """Fits of the same gate to `count` resamples of whole artists: how unsure the fit is."""
    rng = np.random.default_rng(_SEED)
    members = [np.flatnonzero(examples.groups == name) for name in np.unique(examples.groups)]
    draws = rng.integers(0, len(members), (count, len(members)))
    return [
        fit_gate(examples.rows(np.concatenate([members[pick] for pick in draw])), gate.ranks, gate.ridge)
        for draw in draws
    ]
