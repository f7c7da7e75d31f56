"""How likely a policy's shares make the known sources: what calibrating maximises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from evaluation.known_source.observed import Observation
from gmvaluator.ledger.allocation import groups_of
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MAX_DISTANCE, MILLION

Values = npt.NDArray[np.float64]


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
    for row, one in enumerate(observations):
        groups = groups_of(one.found.candidates(), policy)[: policy.k]
        distances[row, : len(groups)] = np.array([group.distance_millionths for group in groups]) / MILLION
        sources[row, : len(groups)] = [
            sum(one.sources.get(member.training_image_id, 0.0) for member in group.members) for group in groups
        ]
    return Examples(distances, sources, np.array([one.query.group for one in observations]))


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
    found = (examples.sources * np.maximum(log_shares + kept[:, None], floor)).sum(axis=1)
    return float((found + examples.absent * np.maximum(nobody, floor)).mean())
