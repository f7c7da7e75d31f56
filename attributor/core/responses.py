"""What each stage answers, from what the pipeline knows by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from attributor.core.attribution import Attribution, Contributor, ImageRequest, Payee, Stage, Timings
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.allocation import Group, ScoredCandidate, member_weights, ownership_of, paid_members
from gmvaluator.ledger.records import Contribution, Evidence, StoredPosting
from gmvaluator.ports import Beneficiary, Candidate, WorkCard
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION, distance_millionths


def recalled_stage(
    request: ImageRequest,
    policy: Policy,
    recalled: Sequence[Candidate],
    cards: Mapping[TrainingImageId, WorkCard],
    timings: Timings,
) -> Attribution:
    """The k nearest by recall; shares are provisional, made from 1 - clip_similarity by the same policy."""
    nearest = recalled[: policy.k]
    provisional, unattributed = policy.provisional_shares(
        [distance_millionths(1 - one.clip_similarity) for one in nearest]
    )
    contributors = tuple(
        Contributor(
            training_image_id=one.training_image_id,
            clip_similarity=one.clip_similarity,
            share=share,
            key=cards[one.training_image_id].key,
            title=cards[one.training_image_id].title,
            payees=_payees(cards[one.training_image_id]),
        )
        for one, share in zip(nearest, provisional, strict=True)
    )
    return _answer(request, policy.reference, Stage.RECALLED, contributors, unattributed, timings)


def reranked_stage(
    request: ImageRequest,
    policy: Policy,
    paid: Sequence[Group],
    cards: Mapping[TrainingImageId, WorkCard],
    timings: Timings,
) -> Attribution:
    """The contributors with their distances, final shares and payees; near-copies follow each other."""
    shares, unattributed = policy.shares([group.distance_millionths for group in paid])
    contributors = tuple(
        contributor
        for group, share in zip(paid, shares, strict=True)
        for contributor in _reranked_group(policy, group, share, cards)
    )
    return _answer(request, policy.reference, Stage.RERANKED, contributors, unattributed, timings)


def final_stage(
    request: ImageRequest, evidence: Evidence, cards: Mapping[TrainingImageId, WorkCard], timings: Timings
) -> Attribution:
    """Quality and credits; `sequence` and `head_hash` are added once the posting is durable."""
    return _final(request.generation_id, evidence, cards, timings)


def stored_attribution(
    stored: StoredPosting, cards: Mapping[TrainingImageId, WorkCard], timings: Timings
) -> Attribution:
    """FINAL as it was posted, marked as a replay. Names are those of today; amounts and accounts never change."""
    return _final(
        stored.header.generation_id,
        stored.evidence,
        cards,
        timings,
        sequence=stored.sequence,
        head_hash=bytes.fromhex(stored.hash),
        replayed=True,
    )


def _answer(
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
    return Attribution(
        generation_id=generation_id,
        model_version=evidence.model_version,
        stage=Stage.FINAL,
        contributors=tuple(_paid(one, cards[one.training_image_id]) for one in evidence.contributions),
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
    policy: Policy, group: Group, share: float, cards: Mapping[TrainingImageId, WorkCard]
) -> list[Contributor]:
    own = [cards[one.training_image_id] for one in group.members]
    if len(own) == 1:
        return [_reranked(group.members[0], share, own[0])]
    titles = [ownership_of(card) for card in own]
    parts, paid = member_weights(group, titles, policy), paid_members(group, titles)
    return [
        _reranked(one, share * part / sum(parts), card)._replace(
            duplicate_group=group.name, competing=place not in paid
        )
        for place, (one, part, card) in enumerate(zip(group.members, parts, own, strict=True))
    ]


def _reranked(one: ScoredCandidate, share: float, card: WorkCard) -> Contributor:
    return Contributor(
        training_image_id=one.training_image_id,
        clip_similarity=one.clip_similarity_millionths / MILLION,
        share=share,
        key=card.key,
        title=card.title,
        perceptual_distance=one.distance_millionths / MILLION,
        payees=_payees(card),
    )


def _payees(card: WorkCard) -> tuple[Payee, ...]:
    return _payees_of(card.beneficiaries)


@lru_cache(maxsize=100_000)
def _payees_of(beneficiaries: tuple[Beneficiary, ...]) -> tuple[Payee, ...]:
    return tuple(Payee(payee.account, payee.display_name, payee.share_ppm) for payee in beneficiaries)


def _paid(one: Contribution, card: WorkCard) -> Contributor:
    names = {payee.account: payee.display_name for payee in card.beneficiaries}
    low, high = (None, None) if one.interval is None else (bound / MILLION for bound in one.interval)
    return Contributor(
        training_image_id=one.training_image_id,
        clip_similarity=one.clip_similarity_millionths / MILLION,
        share=one.share,
        key=card.key,
        title=card.title,
        perceptual_distance=one.distance_millionths / MILLION,
        credit_micros=one.credit_micros,
        payees=tuple(
            Payee(payment.account, names.get(payment.account, ""), payment.share_ppm, payment.credit_micros)
            for payment in one.payments
        ),
        duplicate_group=one.group,
        competing=one.competing,
        share_low=low,
        share_high=high,
    )
