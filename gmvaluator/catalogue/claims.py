"""Rights that follow from claims: pure functions, whose results do not depend on the order of claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gmvaluator.accounts import HELD, SUSPENSE, owner_account
from gmvaluator.ids import OwnerId

WHOLE_PPM = 1_000_000
"""A whole work, in parts per million."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A valid claim: according to `origin`, `owner_id` owns `share_ppm` of the work."""

    origin: str
    owner_id: OwnerId
    share_ppm: int


@dataclass(frozen=True, slots=True)
class Right:
    """A part of a work, and the account that is paid for it. owner_id: None for suspense and held."""

    account: str
    owner_id: OwnerId | None
    share_ppm: int


def resolve_claims(claims: Iterable[Claim]) -> tuple[Right, ...]:
    """Return the rights to a work, by account name ascending; they sum to 1,000,000 ppm.

    Claims of one origin for one owner add up. Origins that name the same owner agree, and the largest claim counts. If
    the owners together claim more than the whole, their claims compete and the whole work is held: the last import does
    not win. The part without a claim is in suspense.
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
    rights = [Right(owner_account(owner_id), owner_id, share_ppm) for owner_id, share_ppm in by_owner.items()]
    if claimed < WHOLE_PPM:
        rights.append(Right(SUSPENSE, None, WHOLE_PPM - claimed))
    return tuple(sorted(rights, key=lambda right: right.account))


Split = tuple[str, str, int]
"""valid_from, valid_to, share in ppm."""


def split_error(splits: Iterable[Split], partial: bool) -> str | None:
    """Return why one origin's splits of one work are wrong, or None if they sum to 1,000,000 ppm whenever any is valid.

    partial: accept less, which leaves the rest in suspense.
    """
    # A sweep over the instants at which a split begins or ends: the sum is constant between them.
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
