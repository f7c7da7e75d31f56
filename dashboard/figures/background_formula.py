"""The formula of a policy that normalises distances by the image's background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION

_MINUS = "\N{MINUS SIGN}"


def background_steps(policy: Policy, distances: Sequence[int]) -> Iterator[dict[str, str]]:
    """Yield the steps from the first contributor's distance to the one that counts; none without a background.

    distances: of all contributors, in millionths.
    """
    rule = policy.background
    if rule is None:
        return
    background = rule.of(distances)
    if background is None:
        yield {
            "what": f"Distances count as they are: the image has fewer than {rule.last} contributors",
            "how": "d' = d",
        }
        return
    usual, mean = f"{rule.distance:g}", f"{background / MILLION:.6f}"
    yield {
        "what": f"Background B: the mean distance of ranks {rule.first} to {rule.last}, works that only resemble it",
        "how": f"B = {mean}",
    }
    yield {
        "what": "Distance of the first that counts: nearer than it is where even the background is far",
        "how": f"d' = d · {usual} / ({usual} + {rule.strength} · (B {_MINUS} {usual})) "
        f"= {distances[0] / MILLION:.6f} · {usual} / ({usual} + {rule.strength} · ({mean} {_MINUS} {usual})) "
        f"= {policy.counted_distances(distances)[0] / MILLION:.6f}",
    }
