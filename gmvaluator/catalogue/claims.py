"""From claims on a work to who is paid for it: pure, and the same whatever order the claims came in.

Whether the parts that one origin claims of a work sum to one, at every instant at which it claims any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gmvaluator.accounts import HELD, SUSPENSE
from gmvaluator.ids import OwnerId

WHOLE_PPM = 1_000_000
"""All of a work, in parts per million."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One valid claim: `origin` says that `owner_id` owns `share_ppm` of the work."""

    origin: str
    owner_id: OwnerId
    share_ppm: int


@dataclass(frozen=True, slots=True)
class Right:
    """Part of a work that one account is paid for. owner_id is None for suspense and held."""

    account: str
    owner_id: OwnerId | None
    share_ppm: int


def resolve_claims(claims: Iterable[Claim]) -> tuple[Right, ...]:
    """Rights by account name ascending; they sum to 1,000,000 ppm.

    An origin's claims for one owner add up; several origins that name the same owner agree, and the largest
    counts. Owners together above the whole compete, and all of it is held, never last-wins. What nobody claims is
    in suspense.
    """
    by_origin: dict[tuple[OwnerId, str], int] = {}
    for claim in claims:
        key = claim.owner_id, claim.origin
        by_origin[key] = by_origin.get(key, 0) + claim.share_ppm
    by_owner: dict[OwnerId, int] = {}
    for (owner_id, _), share_ppm in by_origin.items():
        by_owner[owner_id] = max(by_owner.get(owner_id, 0), share_ppm)
    claimed = sum(by_owner.values())
    if claimed > WHOLE_PPM:
        return (Right(HELD, None, WHOLE_PPM),)
    rights = [Right(f"owner:{owner_id}", owner_id, share_ppm) for owner_id, share_ppm in by_owner.items()]
    if claimed < WHOLE_PPM:
        rights.append(Right(SUSPENSE, None, WHOLE_PPM - claimed))
    return tuple(sorted(rights, key=lambda right: right.account))


Split = tuple[str, str, int]
"""valid_from, valid_to, share in ppm."""


def split_error(splits: Iterable[Split], partial: bool) -> str | None:
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
