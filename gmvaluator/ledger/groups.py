"""Near-copies among the candidates of one image: valued as one contributor, and paid for once.

A *group* is named by its first member, the one that was indexed first. Within one owner its credit is divided among
the members by their own weights; among several owners the earliest claim takes it, and the others compete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gmvaluator.accounts import HELD
from gmvaluator.ids import TrainingImageId
from gmvaluator.policy import Policy
from gmvaluator.ports import WorkCard
from gmvaluator.valuation import divide, similarity_weights


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
class Title:
    """Who has the rights in a work. rights: (account, ppm), which sum to 1,000,000.

    claim_number: place of its earliest claim among all that were ever recorded; None if nobody claims it.
    """

    rights: tuple[tuple[str, int], ...]
    claim_number: int | None

    @property
    def disputed(self) -> bool:
        """Whether its claims compete."""
        return any(account == HELD for account, _ in self.rights)


def title_of(card: WorkCard) -> Title:
    """Of a work as the catalogue knows it."""
    return Title(tuple((one.account, one.share_ppm) for one in card.beneficiaries), card.claim_number)


def groups_of(candidates: Sequence[ScoredCandidate], policy: Policy) -> list[Group]:
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


def paid_places(group: Group, titles: Sequence[Title]) -> list[int]:
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


def parts_of(group: Group, titles: Sequence[Title], policy: Policy) -> list[int]:
    """Weights by which the group's credit is divided among its members; 0 for those that compete."""
    if len(group.members) == 1:
        return [1]
    paid = paid_places(group, titles)
    distances = [group.members[place].distance_millionths for place in paid]
    weights = dict(zip(paid, similarity_weights(distances, policy.temperature, policy.growth), strict=True))
    return [weights.get(place, 0) for place in range(len(group.members))]


def divided(credit: int, group: Group, parts: Sequence[int]) -> list[int]:
    """The group's micro-credits by member, in order; they sum to `credit`."""
    if len(group.members) == 1:
        return [credit]
    return divide(credit, parts, [str(one.training_image_id) for one in group.members])
