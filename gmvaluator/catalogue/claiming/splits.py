"""Whether the parts that one origin claims of a work sum to one, at every instant at which it claims any."""

from __future__ import annotations

from collections.abc import Iterable

from gmvaluator.catalogue.rights import WHOLE_PPM

Split = tuple[str, str, int]
"""valid_from, valid_to, share in ppm."""


def wrong_sum(splits: Iterable[Split], partial: bool) -> str | None:
    """What is wrong with one origin's parts of one work; None if they sum to 1,000,000 ppm whenever there are any.

    partial: less is right too, and leaves the rest to suspense.
    """
    edges: dict[str, int] = {}
    counts: dict[str, int] = {}
    for valid_from, valid_to, share_ppm in splits:
        for edge, sign in ((valid_from, 1), (valid_to, -1)):
            edges[edge] = edges.get(edge, 0) + sign * share_ppm
            counts[edge] = counts.get(edge, 0) + sign
    total = valid = 0
    for edge in sorted(edges):
        total, valid = total + edges[edge], valid + counts[edge]
        if valid and (total > WHOLE_PPM or (total < WHOLE_PPM and not partial)):
            return f"its parts sum to {total:,} ppm from {edge[:10]} on, not {WHOLE_PPM:,}"
    return None
