"""From candidates and titles to what each is paid: the part of valuing that evidence repeats on a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmvaluator.accounts import HELD
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.groups import Group, ScoredCandidate, Title, divided, groups_of, paid_places, parts_of
from gmvaluator.ledger.records import Contribution, NearMiss, Payment
from gmvaluator.policy import Policy, Valuation
from gmvaluator.uncertainty import Hidden, Interval
from gmvaluator.valuation import MILLION, divide

MAX_NEAR_MISSES = 10
"""Contributors after the cut that evidence keeps, nearest first."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """What an image's credit becomes. uncertainty: for the evidence; None if the policy does not say."""

    value: Valuation
    contributions: tuple[Contribution, ...]
    near_misses: tuple[NearMiss, ...]
    uncertainty: dict[str, Any] | None


def rank(candidates: Sequence[ScoredCandidate], policy: Policy) -> tuple[list[Group], list[Group]]:
    """The k nearest contributors and the rest, nearest first; near-copies are one, if the policy has groups."""
    ordered = groups_of(candidates, policy)
    return ordered[: policy.k], ordered[policy.k :]


def allot(
    policy: Policy,
    candidates: Sequence[ScoredCandidate],
    titles: Mapping[TrainingImageId, Title],
    quality: int,
    unlisted: int = 0,
    recall: float | None = None,
) -> Allotment:
    """Value the candidates by `policy`, and divide each contributor's credit.

    titles: of the k nearest contributors' members at least. quality: millionths. unlisted, recall: see
    `uncertainty.Hidden`. Raises InvalidValuation if a candidate repeats, a title is missing, or rights do not sum to
    one.
    """
    paid, rest = rank(candidates, policy)
    distances = [group.distance_millionths for group in paid]
    value = policy.value([str(group.name) for group in paid], distances, quality)
    found = policy.intervals(distances, Hidden([group.distance_millionths for group in rest], unlisted, recall))
    intervals: Sequence[Interval | None] = [None] * len(paid) if found is None else found.contributors
    contributions = tuple(
        contribution
        for place, (group, credit, share, interval) in enumerate(
            zip(paid, value.credit_micros, value.shares, intervals, strict=True), start=1
        )
        for contribution in _contributions(policy, place, group, credit, share, interval, titles)
    )
    misses = tuple(
        NearMiss(place, group.members[0].training_image_id, group.distance_millionths)
        for place, group in enumerate(rest[:MAX_NEAR_MISSES], start=len(paid) + 1)
    )
    said = None if found is None else {"unattributed": list(found.nobody), "recall": recall, "unlisted": unlisted}
    return Allotment(value, contributions, misses, said)


def _contributions(
    policy: Policy,
    place: int,
    group: Group,
    credit: int,
    share: float,
    interval: Interval | None,
    titles: Mapping[TrainingImageId, Title],
) -> list[Contribution]:
    own = [_title(one, titles) for one in group.members]
    parts = parts_of(group, own, policy)
    amounts = divided(credit, group, parts)
    paid, total = paid_places(group, own), sum(parts)
    alone = len(group.members) == 1
    held = holds_back(policy, interval)
    return [
        Contribution(
            place,
            one.training_image_id,
            one.distance_millionths,
            one.clip_similarity_millionths,
            share if alone else share * (part / total),
            amount,
            payments_of(amount, [(HELD, MILLION)] if held else title.rights),
            group=None if policy.groups is None else one.group,
            claim_number=None if alone else title.claim_number,
            competing=place_in_group not in paid,
            interval=interval,
            held_for=tuple(sorted(title.rights)) if held else None,
        )
        for place_in_group, (one, title, part, amount) in enumerate(
            zip(group.members, own, parts, amounts, strict=True)
        )
    ]


def _title(one: ScoredCandidate, titles: Mapping[TrainingImageId, Title]) -> Title:
    title = titles.get(one.training_image_id)
    if title is None:
        raise InvalidValuation(f"the rights in training image {one.training_image_id} were not looked up")
    return title


def holds_back(policy: Policy, interval: Interval | None) -> bool:
    """Whether the policy holds a contributor's credit back, as it is too unsure of it."""
    return policy.uncertainty is not None and interval is not None and policy.uncertainty.too_unsure(interval)


def payments_of(credit: int, rights: Sequence[tuple[str, int]]) -> tuple[Payment, ...]:
    """Divide a contributor's credit among (account, share in ppm) pairs, by account name.

    Raises InvalidValuation if shares do not sum to 1,000,000 or an account repeats.
    """
    ordered = sorted(rights)
    accounts, shares = [account for account, _ in ordered], [share for _, share in ordered]
    if sum(shares) != MILLION:
        raise InvalidValuation(f"rights of {sum(shares)} ppm cannot be paid: shares must sum to {MILLION}")
    parts = [credit] if len(accounts) == 1 else divide(credit, shares, accounts)
    return tuple(Payment(account, share, part) for account, share, part in zip(accounts, shares, parts, strict=True))
