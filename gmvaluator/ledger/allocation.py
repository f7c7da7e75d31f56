"""Allocation of an image's credit: from ranked candidates and ownership to payments, in whole micro-credits.

Recomputing a posting from its evidence repeats this part. Everything here is pure, and the result does not depend on
the order of the candidates.

Near-duplicates among the candidates form a *group*, which is valued as one contributor and paid once. A group is named
by its first member, the one that was indexed first. Members of one owner divide the group's credit by their own
weights. Of several owners the one with the earliest claim takes it, and the others' works are marked as competing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from gmvaluator.accounts import HELD
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.records import Contribution, NearMiss, Payment
from gmvaluator.ports import WorkCard
from gmvaluator.valuation.parts import NOT_SEEN, Parts, Sighting, mask_text
from gmvaluator.valuation.policy import Policy, Valuation
from gmvaluator.valuation.uncertainty import Interval, Uncounted
from gmvaluator.valuation.weights import MILLION, divide, similarity_weights

MAX_NEAR_MISSES = 10
"""Maximum number of contributors after the cut at k that the evidence keeps, nearest first."""


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate after re-ranking. Distances: millionths, lower is nearer; similarity: millionths, higher is nearer.

    group: the first of its near-duplicates, as the index stores it; None if it is known to have none. sighting: where
    it was seen in parts of the image. work_region: mask of the part of the work that was verified, for people to see.
    """

    training_image_id: TrainingImageId
    distance_millionths: int
    clip_similarity_millionths: int
    group: TrainingImageId | None = None
    sighting: Sighting = NOT_SEEN
    work_region: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that count as one contributor, nearest first. distance_millionths: the distance it is weighed by."""

    name: TrainingImageId
    distance_millionths: int
    members: tuple[ScoredCandidate, ...]

    @property
    def sighting(self) -> Sighting:
        """Where any member was seen: the nearest window, and the best verified region."""
        return reduce(Sighting.joined, (member.sighting for member in self.members))


@dataclass(frozen=True, slots=True)
class Ownership:
    """The rights in a work. rights: (account, ppm) pairs, which sum to 1,000,000.

    claim_number: position of its earliest claim among all that were ever recorded; None if nobody claims it.
    """

    rights: tuple[tuple[str, int], ...]
    claim_number: int | None

    @property
    def disputed(self) -> bool:
        """Whether several parties claim the work."""
        return any(account == HELD for account, _ in self.rights)


@dataclass(frozen=True, slots=True)
class Allocation:
    """An image's credit, allocated. uncertainty: intervals for the evidence; None if the policy has none."""

    value: Valuation
    contributions: tuple[Contribution, ...]
    near_misses: tuple[NearMiss, ...]
    uncertainty: dict[str, Any] | None


def ownership_of(card: WorkCard) -> Ownership:
    """Return the ownership of a work from its catalogue card."""
    return Ownership(tuple((payee.account, payee.share_ppm) for payee in card.beneficiaries), card.claim_number)


def allocate(
    policy: Policy,
    candidates: Sequence[ScoredCandidate],
    ownerships: Mapping[TrainingImageId, Ownership],
    quality: int,
    unlisted: int = 0,
    recall: float | None = None,
    content: int | None = None,
) -> Allocation:
    """Value the candidates by `policy`, and divide each contributor's credit among the owners.

    ownerships: at least those of the k nearest contributors' members. quality: millionths. unlisted, recall: see
    `uncertainty.Uncounted`. content: mask of the cells that show anything; None if parts were not examined. Raises
    InvalidValuation if a candidate repeats, an ownership is missing, or rights do not sum to 1,000,000 ppm.
    """
    paid, rest = rank(candidates, policy)
    distances = [group.distance_millionths for group in paid]
    parts = parts_of(paid, content)
    value = policy.value([str(group.name) for group in paid], distances, quality, parts)
    uncounted = Uncounted([group.distance_millionths for group in rest], unlisted, recall)
    bounds = policy.intervals(distances, uncounted, parts)
    intervals: Sequence[Interval | None] = [None] * len(paid) if bounds is None else bounds.contributors
    contributions = tuple(
        contribution
        for position, (group, credit, share, interval) in enumerate(
            zip(paid, value.credit_micros, value.shares, intervals, strict=True), start=1
        )
        for contribution in _contributions(policy, position, group, credit, share, interval, ownerships)
    )
    misses = tuple(
        NearMiss(position, group.members[0].training_image_id, group.distance_millionths)
        for position, group in enumerate(rest[:MAX_NEAR_MISSES], start=len(paid) + 1)
    )
    uncertainty = None
    if bounds is not None:
        uncertainty = {"unattributed": list(bounds.unattributed), "recall": recall, "unlisted": unlisted}
    return Allocation(value, contributions, misses, uncertainty)


def parts_of(groups: Sequence[Group], content: int | None) -> Parts | None:
    """Return where the contributors were seen; None if parts were not examined. content: see `allocate`."""
    return None if content is None else Parts(content, tuple(group.sighting for group in groups))


def rank(candidates: Sequence[ScoredCandidate], policy: Policy) -> tuple[list[Group], list[Group]]:
    """Return the first k contributors and the rest, in the order of `group_candidates`."""
    # Grouping comes before the cut: otherwise copies of one work could fill the k places.
    ordered = group_candidates(candidates, policy)
    return ordered[: policy.k], ordered[policy.k :]


def group_candidates(candidates: Sequence[ScoredCandidate], policy: Policy) -> list[Group]:
    """Return the contributors, nearest first; each candidate by itself if the policy has no groups.

    Under a policy with a rule for parts, verified works come first, then the nearest to the image or to a window of it.

    Equal distances are ordered by name, so the result does not depend on the candidates' order.
    """
    members_by_name: dict[TrainingImageId, list[ScoredCandidate]] = {}
    for candidate in sorted(candidates, key=_nearness):
        members_by_name.setdefault(_group_name(candidate, policy), []).append(candidate)
    groups = [
        Group(name, _group_distance(name, members, policy), tuple(members)) for name, members in members_by_name.items()
    ]
    return sorted(groups, key=_by_distance if policy.parts is None else _by_parts)


def _by_distance(group: Group) -> tuple[int, int]:
    return group.distance_millionths, group.name.int


def _by_parts(group: Group) -> tuple[int, int, int]:
    sighting = group.sighting
    return -sighting.inliers, min(group.distance_millionths, sighting.nearest), group.name.int


def _nearness(candidate: ScoredCandidate) -> tuple[int, int]:
    return candidate.distance_millionths, candidate.training_image_id.int


def _group_name(candidate: ScoredCandidate, policy: Policy) -> TrainingImageId:
    return candidate.training_image_id if policy.groups is None or candidate.group is None else candidate.group


def _group_distance(name: TrainingImageId, members: Sequence[ScoredCandidate], policy: Policy) -> int:
    """Return the distance of the first work if `policy.groups` is "first" and it is a candidate, else the nearest."""
    if policy.groups == "first":
        for member in members:
            if member.training_image_id == name:
                return member.distance_millionths
    return members[0].distance_millionths


def paid_members(group: Group, ownerships: Sequence[Ownership]) -> list[int]:
    """Return the indexes of the members that are paid: those of the owners whose claim was recorded first.

    ownerships: of the members, in their order. If the earliest claim is disputed, only its work is paid, into `held`
    until the verdict. If nobody claims any member, the first of the group is paid, into suspense, or the nearest member
    if the first is no candidate.
    """
    claimed = [
        (ownership.claim_number, index)
        for index, ownership in enumerate(ownerships)
        if ownership.claim_number is not None
    ]
    if not claimed:
        firsts = [index for index, member in enumerate(group.members) if member.training_image_id == group.name]
        return firsts or [0]
    _, earliest = min(claimed, key=lambda claim: (claim[0], group.members[claim[1]].training_image_id.int))
    if ownerships[earliest].disputed:
        # A copy that was claimed later must not profit from a dispute about the work that it copies.
        return [earliest]
    return [index for _, index in claimed if ownerships[index].rights == ownerships[earliest].rights]


def member_weights(group: Group, ownerships: Sequence[Ownership], policy: Policy) -> list[int]:
    """Return the weights that divide the group's credit among its members; 0 for members that compete."""
    if len(group.members) == 1:
        return [1]
    paid = paid_members(group, ownerships)
    weights = dict(zip(paid, weights_within([group.members[index] for index in paid], policy), strict=True))
    return [weights.get(index, 0) for index in range(len(group.members))]


def weights_within(members: Sequence[ScoredCandidate], policy: Policy) -> list[int]:
    """Return the weights that divide what a group receives among these members of it."""
    distances = [member.distance_millionths for member in members]
    if policy.parts is None:
        return similarity_weights(distances, policy.temperature, policy.growth)
    sightings = [member.sighting for member in members]
    return policy.parts.member_weights(distances, sightings, policy.temperature, policy.growth)


def divide_among_members(credit: int, group: Group, weights: Sequence[int]) -> list[int]:
    """Return the group's micro-credits by member, in their order; they sum to `credit`."""
    if len(group.members) == 1:
        return [credit]
    return divide(credit, weights, [str(member.training_image_id) for member in group.members])


def _contributions(
    policy: Policy,
    position: int,
    group: Group,
    credit: int,
    share: float,
    interval: Interval | None,
    ownerships: Mapping[TrainingImageId, Ownership],
) -> list[Contribution]:
    """Return a contribution for each member of the contributor that ranks at `position`."""
    members = [_ownership(member, ownerships) for member in group.members]
    weights = member_weights(group, members, policy)
    amounts = divide_among_members(credit, group, weights)
    paid, total = paid_members(group, members), sum(weights)
    alone = len(group.members) == 1
    held = holds_back(policy, interval)
    return [
        Contribution(
            position,
            member.training_image_id,
            member.distance_millionths,
            member.clip_similarity_millionths,
            share if alone else share * (weight / total),
            amount,
            payments_of(amount, [(HELD, MILLION)] if held else ownership.rights),
            group=None if policy.groups is None else member.group,
            claim_number=None if alone else ownership.claim_number,
            competing=index not in paid,
            interval=interval,
            held_for=tuple(sorted(ownership.rights)) if held else None,
            **({} if policy.parts is None else _parts_evidence(member)),
        )
        for index, (member, ownership, weight, amount) in enumerate(
            zip(group.members, members, weights, amounts, strict=True)
        )
    ]


def _parts_evidence(member: ScoredCandidate) -> dict[str, Any]:
    """Return the fields of a contribution that say where the work was seen."""
    sighting = member.sighting
    window = {"window": mask_text(sighting.window), "window_distance_millionths": sighting.window_distance}
    verified = {
        "inliers": sighting.inliers,
        "region": mask_text(sighting.region),
        "work_region": mask_text(member.work_region),
    }
    return {**(window if sighting.window else {}), **(verified if sighting.inliers else {})}


def _ownership(member: ScoredCandidate, ownerships: Mapping[TrainingImageId, Ownership]) -> Ownership:
    ownership = ownerships.get(member.training_image_id)
    if ownership is None:
        raise InvalidValuation(f"the rights in training image {member.training_image_id} were not looked up")
    return ownership


def holds_back(policy: Policy, interval: Interval | None) -> bool:
    """Return whether the policy holds a contributor's credit back because its share is too uncertain."""
    return policy.uncertainty is not None and interval is not None and policy.uncertainty.holds_back(interval)


def payments_of(credit: int, rights: Sequence[tuple[str, int]]) -> tuple[Payment, ...]:
    """Divide a contributor's credit among (account, ppm) pairs, ordered by account name.

    Raises InvalidValuation if the shares do not sum to 1,000,000 or an account repeats.
    """
    ordered = sorted(rights)
    accounts, shares = [account for account, _ in ordered], [share for _, share in ordered]
    if sum(shares) != MILLION:
        raise InvalidValuation(f"rights of {sum(shares)} ppm cannot be paid: shares must sum to {MILLION}")
    amounts = [credit] if len(accounts) == 1 else divide(credit, shares, accounts)
    return tuple(
        Payment(account, share, amount) for account, share, amount in zip(accounts, shares, amounts, strict=True)
    )
