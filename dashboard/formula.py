"""The formula with one image's numbers put in, so that anyone can check the credit by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gmvaluator.ledger.records import Evidence
from gmvaluator.policy import Policy
from gmvaluator.residual import Gate, VirtualContributor
from gmvaluator.valuation import MAX_DISTANCE, MILLION

_MINUS = "\N{MINUS SIGN}"


def formula(evidence: Evidence) -> list[dict[str, str]]:
    """Steps from distances and quality to the nearest contributor's credit: what each is, and the numbers.

    Floating point, for people: the ledger's own arithmetic is exact, and the last digit may differ.
    """
    policy = Policy.from_parameters(evidence.policy)
    distances = [one.distance_millionths / MILLION for one in evidence.contributions]
    if not distances:
        return [{"what": "No training image was found: everything goes to nobody", "how": "r = 1"}]
    tau = float(policy.temperature)
    weights = [math.exp(-(distance - distances[0]) / tau) for distance in distances]
    nobody = _nobody(policy, distances, weights, tau)
    quality = min(max(evidence.quality_millionths, policy.quality_floor), policy.quality_cap) / MILLION
    share = (1 - nobody["r"]) * weights[0] / sum(weights)
    return [
        {"what": "Quality q of the generated image, which is the credit it issues", "how": f"q = {quality:.6f}"},
        {
            "what": f"Weight of each of the {len(distances)} works by its distance d, the nearest being 1",
            "how": f"w = exp({_MINUS}(d {_MINUS} {distances[0]:.6f}) / {policy.temperature})",
        },
        {"what": "Sum of all weights", "how": f"Σ w = {sum(weights):.6f}"},
        {"what": nobody["what"], "how": nobody["how"]},
        {
            "what": "Credit of the nearest work",
            "how": f"q · (1 {_MINUS} r) · w / Σ w = {quality:.6f} · {1 - nobody['r']:.6f} · 1 / {sum(weights):.6f} "
            f"= {quality * share:.6f}",
        },
    ]


def weights_of(evidence: Evidence) -> list[str]:
    """Each contributor's w, as the formula names it."""
    tau = float(Policy.from_parameters(evidence.policy).temperature)
    distances = [one.distance_millionths / MILLION for one in evidence.contributions]
    return [f"{math.exp(-(distance - distances[0]) / tau):.6f}" for distance in distances]


def _nobody(policy: Policy, distances: Sequence[float], weights: Sequence[float], tau: float) -> dict[str, Any]:
    residual = policy.residual
    if isinstance(residual, VirtualContributor):
        weight = math.exp(-(float(residual.distance) - distances[0]) / tau)
        r = weight / (weight + sum(weights))
        how = f"r = {weight:.6f} / ({weight:.6f} + {sum(weights):.6f}) = {r:.6f}"
        return {"what": f"Share r of nobody, who stands at distance {residual.distance}", "how": how, "r": r}
    if isinstance(residual, Gate):
        near = [
            (coefficient, distances[rank - 1] if rank <= len(distances) else float(MAX_DISTANCE))
            for rank, coefficient in residual.ranks
        ]
        terms = "".join(f" {_sign(float(c))} {abs(c)} · {distance:.6f}" for c, distance in near)
        logit = float(residual.bias) + sum(float(c) * distance for c, distance in near)
        r = 1 / (1 + math.exp(-min(max(logit, -60.0), 60.0)))
        ranks = ", ".join(str(rank) for rank, _ in residual.ranks)
        what = f"Share r of nobody: high if the works of rank {ranks} are far"
        return {
            "what": what,
            "how": f"r = 1 / (1 + exp({_MINUS}x)), x = {residual.bias}{terms} = {logit:.4f}; r = {r:.6f}",
            "r": r,
        }
    return {"what": "Share r of nobody: this policy leaves nothing to nobody", "how": "r = 0", "r": 0.0}


def _sign(value: float) -> str:
    return "+" if value >= 0 else _MINUS
