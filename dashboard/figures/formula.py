"""The formula with one image's numbers inserted, so that a reader can check the credit by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashboard.figures.background_formula import background_steps
from dashboard.figures.parts_formula import parts_steps
from gmvaluator.ledger.allocation import group_candidates, parts_of
from gmvaluator.ledger.posting import candidates_from_evidence, content_of
from gmvaluator.ledger.records import Evidence
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.residual import Gate, VirtualContributor
from gmvaluator.valuation.weights import MAX_DISTANCE, MILLION

_MINUS = "\N{MINUS SIGN}"


def formula(evidence: Evidence) -> list[dict[str, str]]:
    """Return the steps from distances and quality to the first contributor's credit, each with its numbers.

    The numbers are rounded: the ledger's own arithmetic is exact, and the last digit may differ.
    """
    policy = Policy.from_parameters(evidence.policy)
    groups = group_candidates(candidates_from_evidence(evidence), policy)
    if not groups:
        return [{"what": "No training image was found: all of the credit is unattributed", "how": "r = 1"}]
    parts = parts_of(groups, content_of(evidence))
    distances = [group.distance_millionths for group in groups]
    shares, unattributed = policy.shares(distances, parts)
    quality = min(max(evidence.quality_millionths, policy.quality_floor), policy.quality_cap) / MILLION
    start = {"what": "Quality q of the generated image: the credit it issues", "how": f"q = {quality:.6f}"}
    if policy.parts is not None and parts is not None:
        return [start, *parts_steps(policy, policy.parts, parts, distances, shares[0], unattributed, quality)]
    total = (1 - unattributed) / shares[0] if shares[0] else math.inf
    counted = policy.counted_distances(distances)
    return [
        start,
        *background_steps(policy, distances),
        {
            "what": f"Weight w of each of the {len(distances)} contributors by its distance d, the nearest being 1",
            "how": _weight_text(policy, counted[0]),
        },
        {"what": "Sum of all weights", "how": f"Σ w = {total:.6f}"},
        _unattributed_step(policy, [distance / MILLION for distance in counted], unattributed),
        {
            "what": "Credit of the nearest",
            "how": f"q · (1 {_MINUS} r) · w / Σ w = {quality:.6f} · {1 - unattributed:.6f} · 1 / {total:.6f} "
            f"= {quality * shares[0]:.6f}",
        },
    ]


def weights_of(evidence: Evidence) -> list[str]:
    """Return each contributor's weight w, as a multiple of the first's; near-duplicates valued as one share a weight.

    Under a policy that counts parts it is the mean share of the cells instead of a weight.
    """
    policy = Policy.from_parameters(evidence.policy)
    groups = group_candidates(candidates_from_evidence(evidence), policy)
    distances = [group.distance_millionths for group in groups]
    shares = policy.shares(distances, parts_of(groups, content_of(evidence)))[0]
    by_rank = dict(zip(_ranks(evidence), shares, strict=True))
    return [f"{by_rank[row.rank] / shares[0] if shares[0] else 0.0:.6f}" for row in evidence.contributions]


def _ranks(evidence: Evidence) -> list[int]:
    return sorted({row.rank for row in evidence.contributions})


def _weight_text(policy: Policy, nearest: int) -> str:
    if policy.growth:
        ratio = f"(τ + g · {nearest / MILLION:.6f}) / (τ + g · d)"
        return f"w = ({ratio})^(1 / g), τ = {policy.temperature}, g = {policy.growth}"
    return f"w = exp({_MINUS}(d {_MINUS} {nearest / MILLION:.6f}) / {policy.temperature})"


def _unattributed_step(policy: Policy, distances: Sequence[float], share: float) -> dict[str, str]:
    residual = policy.residual
    if isinstance(residual, VirtualContributor):
        what = f"Unattributed share r: a virtual contributor at distance {residual.distance} with a weight of its own"
        return {"what": what, "how": f"r = {share:.6f}"}
    if not isinstance(residual, Gate):
        return {"what": "Unattributed share r: this policy attributes all of the credit", "how": "r = 0"}
    near = [
        (float(coefficient), distances[rank - 1] if rank <= len(distances) else float(MAX_DISTANCE))
        for rank, coefficient in residual.ranks
    ]
    terms = "".join(f" {'+' if c >= 0 else _MINUS} {abs(c):.6f} · {distance:.6f}" for c, distance in near)
    logit = float(residual.bias) + sum(c * distance for c, distance in near)
    ranks = " and ".join(str(rank) for rank, _ in residual.ranks)
    return {
        "what": f"Unattributed share r, by the distances of the works of rank {ranks}",
        "how": f"x = {residual.bias}{terms} = {logit:.4f};  r = 1 / (1 + exp({_MINUS}x)) = {share:.6f}".replace(
            "-", _MINUS
        ),
    }
