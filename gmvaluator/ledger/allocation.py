"""From candidates and titles to what each is paid: the part of valuing that evidence repeats on a replay.

Near-copies among the candidates of one image: valued as one contributor, and paid for once.

A *group* is named by its first member, the one that was indexed first. Within one owner its credit is divided among
the members by their own weights; among several owners the earliest claim takes it, and the others compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmvaluator.accounts import HELD
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.records import Contribution, NearMiss, Payment
from gmvaluator.ports import WorkCard
from gmvaluator.valuation.policy import Policy, Valuation
from gmvaluator.valuation.uncertainty import Hidden, Interval
from gmvaluator.valuation.weights import MILLION, divide, similarity_weights


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate after re-ranking. Distances: millionths, lower is nearer; similarity: millionths, higher is.

    group: the first of its near-copies, as the index has it; None if it is known to have none.
    """

    training_image_id: TrainingImageId
    distance_millionths: int
    clip_similarity_millionths: int
    group: TrainingImageId | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that are one contributor, nearest first. distance_millionths: what it is weighed by."""

    name: TrainingImageId
    distance_millionths: int
    members: tuple[ScoredCandidate, ...]


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who has the rights in a work. rights: (account, ppm), which sum to 1,000,000.

    claim_number: place of its earliest claim among all that were ever recorded; None if nobody claims it.
    """

    rights: tuple[tuple[str, int], ...]
    claim_number: int | None

    @property
    def disputed(self) -> bool:
        """Whether its claims compete."""
        return any(account == HELD for account, _ in self.rights)


def ownership_of(card: WorkCard) -> Ownership:
    """Of a work as the catalogue knows it."""
    return Ownership(tuple((one.account, one.share_ppm) for one in card.beneficiaries), card.claim_number)


def group_candidates(candidates: Sequence[ScoredCandidate], policy: Policy) -> list[Group]:
    """The contributors, nearest first, equal distances settled by name; each candidate alone if the policy has no
    groups. The result does not depend on the candidates' order.
    """
    gathered: dict[TrainingImageId, list[ScoredCandidate]] = {}
    for one in sorted(candidates, key=_nearness):
        gathered.setdefault(_name(one, policy), []).append(one)
    groups = [Group(name, _distance(name, members, policy), tuple(members)) for name, members in gathered.items()]
    return sorted(groups, key=lambda group: (group.distance_millionths, group.name.int))


def _nearness(one: ScoredCandidate) -> tuple[int, int]:
    return one.distance_millionths, one.training_image_id.int


def _name(one: ScoredCandidate, policy: Policy) -> TrainingImageId:
    return one.training_image_id if policy.groups is None or one.group is None else one.group


def _distance(name: TrainingImageId, members: Sequence[ScoredCandidate], policy: Policy) -> int:
    """Of the nearest member; by a policy that goes by the first, of that one if it is a candidate."""
    if policy.groups == "first":
        for one in members:
            if one.training_image_id == name:
                return one.distance_millionths
    return members[0].distance_millionths


def paid_members(group: Group, titles: Sequence[Ownership]) -> list[int]:
    """Which members are paid: those of the owners whose claim was recorded first. titles: of the members, in order.

    If that claim is disputed, its work alone is: its credit is held, and waits for the decision; a copy that is
    claimed later must not profit from a dispute about what it copies. Where nobody claims anything, the first of the
    group waits in suspense, or the nearest if the first is no candidate.
    """
    claimed = [(title.claim_number, place) for place, title in enumerate(titles) if title.claim_number is not None]
    if not claimed:
        firsts = [place for place, one in enumerate(group.members) if one.training_image_id == group.name]
        return firsts or [0]
    _, earliest = min(claimed, key=lambda one: (one[0], group.members[one[1]].training_image_id.int))
    if titles[earliest].disputed:
        return [earliest]
    return [place for _, place in claimed if titles[place].rights == titles[earliest].rights]


def member_weights(group: Group, titles: Sequence[Ownership], policy: Policy) -> list[int]:
    """Weights by which the group's credit is divided among its members; 0 for those that compete."""
    if len(group.members) == 1:
        return [1]
    paid = paid_members(group, titles)
    distances = [group.members[place].distance_millionths for place in paid]
    weights = dict(zip(paid, similarity_weights(distances, policy.temperature, policy.growth), strict=True))
    return [weights.get(place, 0) for place in range(len(group.members))]


def divide_among_members(credit: int, group: Group, parts: Sequence[int]) -> list[int]:
    """The group's micro-credits by member, in order; they sum to `credit`."""
    if len(group.members) == 1:
        return [credit]
    return divide(credit, parts, [str(one.training_image_id) for one in group.members])


MAX_NEAR_MISSES = 10
"""Contributors after the cut that evidence keeps, nearest first."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an image's credit becomes. uncertainty: for the evidence; None if the policy does not say."""

    value: Valuation
    contributions: tuple[Contribution, ...]
    near_misses: tuple[NearMiss, ...]
    uncertainty: dict[str, Any] | None


def rank(candidates: Sequence[ScoredCandidate], policy: Policy) -> tuple[list[Group], list[Group]]:
    """The k nearest contributors and the rest, nearest first; near-copies are one, if the policy has groups."""
    ordered = group_candidates(candidates, policy)
    return ordered[: policy.k], ordered[policy.k :]


def allocate(
    policy: Policy,
    candidates: Sequence[ScoredCandidate],
    titles: Mapping[TrainingImageId, Ownership],
    quality: int,
    unlisted: int = 0,
    recall: float | None = None,
) -> Allocation:
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
    return Allocation(value, contributions, misses, said)


def _contributions(
    policy: Policy,
    place: int,
    group: Group,
    credit: int,
    share: float,
    interval: Interval | None,
    titles: Mapping[TrainingImageId, Ownership],
) -> list[Contribution]:
    own = [_title(one, titles) for one in group.members]
    parts = member_weights(group, own, policy)
    amounts = divide_among_members(credit, group, parts)
    paid, total = paid_members(group, own), sum(parts)
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


def _title(one: ScoredCandidate, titles: Mapping[TrainingImageId, Ownership]) -> Ownership:
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
