"""The ways to divide a credit that the benchmark compares, one row of its tables each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from evaluation.known_source.fit import VirtualFit
from evaluation.known_source.observations import Observation, Retrieval
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.allocation import Group, group_candidates, parts_of, weights_within
from gmvaluator.valuation.parts import Sighting
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.residual import VirtualContributor

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares by training image, nearest first, and the unattributed share; together they are one."""

    shares: dict[TrainingImageId, float]
    unattributed: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to divide a credit. name: its label in the tables. divide: shares from the index's answer."""

    name: str
    divide: Callable[[Retrieval], Shares]


@dataclass(frozen=True)
class PolicyShares:
    """The shares that one variant gives for all observations."""

    row: Variant
    observations: Sequence[Observation]
    divisions: Sequence[Shares]

    @property
    def to_sources(self) -> Values:
        """Total share of the true sources of each observation, (N,)."""
        return np.array(
            [
                sum(division.shares.get(source, 0.0) for source in observation.sources)
                for observation, division in zip(self.observations, self.divisions, strict=True)
            ]
        )

    @property
    def unattributed(self) -> Values:
        """Unattributed share of each observation, (N,)."""
        return np.array([division.unattributed for division in self.divisions])


def apply_policy(row: Variant, observations: Sequence[Observation]) -> PolicyShares:
    """Apply a variant to every observation."""
    return PolicyShares(row, observations, [row.divide(observation.retrieval) for observation in observations])


def uniform(k: int) -> Variant:
    """Give the same share to each of the k nearest works."""

    def divide(retrieval: Retrieval) -> Shares:
        near = retrieval.reranked[:k]
        return Shares(dict.fromkeys(near, 1 / len(near)), 0.0) if near else Shares({}, 1.0)

    return Variant("uniform over the k nearest", divide)


def without_reranking(policy: Policy) -> Variant:
    """Apply the policy to recall distances: the paper's No-Rerank."""

    def divide(retrieval: Retrieval) -> Shares:
        shares, rest = policy.shares(retrieval.recall_millionths[: policy.k])
        return Shares(dict(zip(retrieval.recalled, shares, strict=False)), rest)

    return Variant(f"{policy.reference}, not re-ranked", divide)


def by_policy(policy: Policy, name: str = "") -> Variant:
    """Apply the policy to perceptual distances, as the service does."""

    def divide(retrieval: Retrieval) -> Shares:
        groups = group_candidates(retrieval.candidates(), policy)[: policy.k]
        parts = None if policy.parts is None else parts_of(groups, retrieval.seen.content)
        shares, rest = policy.shares([group.distance_millionths for group in groups], parts)
        return Shares(
            {
                work: part
                for group, share in zip(groups, shares, strict=True)
                for work, part in _parts(group, share, policy)
            },
            rest,
        )

    return Variant(name or policy.reference, divide)


def without_unattributed(policy: Policy) -> Variant:
    """Apply the policy, and divide the unattributed share among the contributors in proportion."""
    inner = by_policy(policy)

    def divide(retrieval: Retrieval) -> Shares:
        divided = inner.divide(retrieval)
        kept = 1 - divided.unattributed
        if kept <= 0:
            return divided
        return Shares({work: share / kept for work, share in divided.shares.items()}, 0.0)

    return Variant(f"{policy.reference}, nothing unattributed", divide)


def parts_ablations(policy: Policy) -> list[Variant]:
    """Return a policy that counts parts with one witness of them, or none, and without a background."""
    return [
        by_policy(replace(policy, background=None), "without the background"),
        by_policy(replace(policy, parts=None), "whole image alone"),
        _with_sightings(policy, "without verified regions", lambda seen: seen._replace(region=0, inliers=0)),
        _with_sightings(policy, "without windows", lambda seen: seen._replace(window=0, window_distance=0)),
    ]


def _with_sightings(policy: Policy, name: str, change: Callable[[Sighting], Sighting]) -> Variant:
    inner = by_policy(policy, name)

    def divide(retrieval: Retrieval) -> Shares:
        sightings = {work: change(sighting) for work, sighting in retrieval.seen.sightings.items()}
        return inner.divide(replace(retrieval, seen=replace(retrieval.seen, sightings=sightings)))

    return Variant(name, divide)


def _parts(group: Group, share: float, policy: Policy) -> list[tuple[TrainingImageId, float]]:
    """Return each member's part if all have one owner, as nearly all near-duplicates in the sample do."""
    if len(group.members) == 1:
        return [(group.members[0].training_image_id, share)]
    weights = weights_within(group.members, policy)
    return [
        (member.training_image_id, share * weight / sum(weights))
        for member, weight in zip(group.members, weights, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Fits:
    """Parameters fitted to the same images for the ablation's rows."""

    flat_temperature: float
    virtual: VirtualFit


def ablations(policy: Policy, fits: Fits) -> list[Variant]:
    """Return the policy with one thing changed at a time.

    A temperature that does not grow, no residual, the other form of residual (each fitted again), or near-duplicates
    one by one.
    """
    flat = replace(policy, temperature=decimal(fits.flat_temperature), growth=Decimal(0))
    virtual = replace(
        policy,
        temperature=decimal(fits.virtual.temperature),
        growth=decimal(fits.virtual.growth),
        residual=VirtualContributor(decimal(fits.virtual.distance)),
    )
    return [
        by_policy(replace(flat, residual=None), "one temperature, no residual"),
        by_policy(replace(policy, residual=None), "growing temperature, no residual"),
        by_policy(flat, "one temperature, gate"),
        by_policy(virtual, "growing temperature, virtual contributor"),
        by_policy(replace(policy, groups=None), "growing temperature, gate, near-duplicates one by one"),
    ]


def decimal(value: float) -> Decimal:
    """Return the number with the six decimals of a policy file."""
    return Decimal(f"{value:.6f}")
