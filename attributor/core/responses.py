"""Builders of the Attribution of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from attributor.core.attribution import Attribution, Contributor, ImageRequest, Payee, Stage, Timings, VisibleParts
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.allocation import Group, ScoredCandidate, member_weights, ownership_of, paid_members, parts_of
from gmvaluator.ledger.posting import content_of
from gmvaluator.ledger.records import Contribution, Evidence, StoredPosting
from gmvaluator.ports import Beneficiary, Candidate, WorkCard
from gmvaluator.valuation.parts import Sighting, visible_share
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION, distance_millionths


def recalled_stage(
    request: ImageRequest,
    policy: Policy,
    recalled: Sequence[Candidate],
    cards: Mapping[TrainingImageId, WorkCard],
    timings: Timings,
) -> Attribution:
    """Build RECALLED: the k nearest by recall, with provisional shares.

    The policy computes the shares from 1 - clip_similarity in place of the perceptual distance.
    """
    nearest = recalled[: policy.k]
    provisional, unattributed = policy.provisional_shares(
        [distance_millionths(1 - candidate.clip_similarity) for candidate in nearest]
    )
    contributors = tuple(
        Contributor(
            training_image_id=candidate.training_image_id,
            clip_similarity=candidate.clip_similarity,
            share=share,
            key=cards[candidate.training_image_id].key,
            title=cards[candidate.training_image_id].title,
            payees=_payees(cards[candidate.training_image_id]),
        )
        for candidate, share in zip(nearest, provisional, strict=True)
    )
    return _attribution(request, policy.reference, Stage.RECALLED, contributors, unattributed, timings)


def reranked_stage(
    request: ImageRequest,
    policy: Policy,
    paid: Sequence[Group],
    content: int | None,
    cards: Mapping[TrainingImageId, WorkCard],
    timings: Timings,
) -> Attribution:
    """Build RERANKED: contributors with distances, final shares and payees; near-duplicates follow each other.

    content: see `allocation.allocate`.
    """
    shares, unattributed = policy.shares([group.distance_millionths for group in paid], parts_of(paid, content))
    contributors = tuple(
        contributor
        for group, share in zip(paid, shares, strict=True)
        for contributor in _reranked_group(policy, group, share, content, cards)
    )
    return _attribution(request, policy.reference, Stage.RERANKED, contributors, unattributed, timings)


def final_stage(
    request: ImageRequest, evidence: Evidence, cards: Mapping[TrainingImageId, WorkCard], timings: Timings
) -> Attribution:
    """Build FINAL, with quality and credits; `sequence` and `head_hash` are set once the posting is durable."""
    return _final(request.generation_id, evidence, cards, timings)


def stored_attribution(
    stored: StoredPosting, cards: Mapping[TrainingImageId, WorkCard], timings: Timings
) -> Attribution:
    """Build FINAL of a stored posting, marked as a replay. Names are today's; amounts and accounts never change."""
    return _final(
        stored.header.generation_id,
        stored.evidence,
        cards,
        timings,
        sequence=stored.sequence,
        head_hash=bytes.fromhex(stored.hash),
        replayed=True,
    )


def _attribution(
    request: ImageRequest,
    policy: str,
    stage: Stage,
    contributors: tuple[Contributor, ...],
    unattributed_share: float,
    timings: Timings,
) -> Attribution:
    return Attribution(
        generation_id=request.generation_id,
        model_version=request.model_version,
        stage=stage,
        contributors=contributors,
        unattributed_share=unattributed_share,
        policy=policy,
        timings=timings,
    )


def _final(
    generation_id: str,
    evidence: Evidence,
    cards: Mapping[TrainingImageId, WorkCard],
    timings: Timings,
    sequence: int | None = None,
    head_hash: bytes | None = None,
    replayed: bool = False,
) -> Attribution:
    low, high = evidence.uncertainty["unattributed"] if evidence.uncertainty else (None, None)
    content = content_of(evidence)
    return Attribution(
        generation_id=generation_id,
        model_version=evidence.model_version,
        stage=Stage.FINAL,
        contributors=tuple(_paid(paid, content, cards[paid.training_image_id]) for paid in evidence.contributions),
        unattributed_share=evidence.unattributed_share,
        policy=str(evidence.policy["policy"]),
        quality=evidence.quality_millionths / MILLION,
        issued_micros=evidence.issued_micros,
        unattributed_micros=evidence.unattributed_micros,
        unattributed_share_low=None if low is None else low / MILLION,
        unattributed_share_high=None if high is None else high / MILLION,
        sequence=sequence,
        head_hash=head_hash,
        replayed=replayed,
        timings=timings,
    )


def _reranked_group(
    policy: Policy, group: Group, share: float, content: int | None, cards: Mapping[TrainingImageId, WorkCard]
) -> list[Contributor]:
    """Divide a group's share between its members."""
    group_cards = [cards[member.training_image_id] for member in group.members]
    if len(group_cards) == 1:
        return [_reranked(group.members[0], share, content, group_cards[0])]
    ownerships = [ownership_of(card) for card in group_cards]
    weights, paid = member_weights(group, ownerships, policy), paid_members(group, ownerships)
    return [
        _reranked(member, share * weight / sum(weights), content, card)._replace(
            duplicate_group=group.name, competing=position not in paid
        )
        for position, (member, weight, card) in enumerate(zip(group.members, weights, group_cards, strict=True))
    ]


def _reranked(candidate: ScoredCandidate, share: float, content: int | None, card: WorkCard) -> Contributor:
    return Contributor(
        training_image_id=candidate.training_image_id,
        clip_similarity=candidate.clip_similarity_millionths / MILLION,
        share=share,
        key=card.key,
        title=card.title,
        perceptual_distance=candidate.distance_millionths / MILLION,
        payees=_payees(card),
        visible=_visible(candidate.sighting, candidate.work_region, content),
    )


def _visible(sighting: Sighting, work_region: int, content: int | None) -> VisibleParts | None:
    if not sighting.inliers or content is None:
        return None
    share = visible_share(sighting.region, content)
    return VisibleParts(sighting.inliers, sighting.region, work_region, share)


def _payees(card: WorkCard) -> tuple[Payee, ...]:
    return _payees_of(card.beneficiaries)


# Cached by beneficiaries, which many works share: equal tuples stay one object, and so do their serialized messages.
@lru_cache(maxsize=100_000)
def _payees_of(beneficiaries: tuple[Beneficiary, ...]) -> tuple[Payee, ...]:
    return tuple(Payee(payee.account, payee.display_name, payee.share_ppm) for payee in beneficiaries)


def _paid(contribution: Contribution, content: int | None, card: WorkCard) -> Contributor:
    names = {payee.account: payee.display_name for payee in card.beneficiaries}
    interval = contribution.interval
    low, high = (None, None) if interval is None else (bound / MILLION for bound in interval)
    return Contributor(
        training_image_id=contribution.training_image_id,
        clip_similarity=contribution.clip_similarity_millionths / MILLION,
        share=contribution.share,
        key=card.key,
        title=card.title,
        perceptual_distance=contribution.distance_millionths / MILLION,
        credit_micros=contribution.credit_micros,
        payees=tuple(
            Payee(payment.account, names.get(payment.account, ""), payment.share_ppm, payment.credit_micros)
            for payment in contribution.payments
        ),
        duplicate_group=contribution.group,
        competing=contribution.competing,
        share_low=low,
        share_high=high,
        visible=_visible(contribution.sighting, contribution.work_mask, content),
    )
