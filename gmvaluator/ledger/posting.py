"""From a valued image to a posting: pure, and the same whatever order the candidates came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import GenerationId, TrainingImageId
from gmvaluator.ledger.records import (
    ATTRIBUTOR,
    ISSUANCE,
    Contribution,
    Entry,
    Evidence,
    ImageFacts,
    NearMiss,
    NewPosting,
    Payment,
)
from gmvaluator.policy import UNATTRIBUTED, Policy
from gmvaluator.ports import Beneficiary, WorkCard
from gmvaluator.profile import ProfileIdentity
from gmvaluator.valuation import MILLION, divide

MAX_NEAR_MISSES = 10
"""Candidates after the cut that evidence keeps, nearest first."""


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate after re-ranking. Distances: millionths, lower is nearer; similarity: millionths, higher is."""

    training_image_id: TrainingImageId
    distance_millionths: int
    clip_similarity_millionths: int


@dataclass(frozen=True, slots=True)
class ValuedImage:
    """A generated image with all that valuing it takes, but for the candidates and their rights.

    quality_millionths: 0..1,000,000, higher is better. timings_ms: stage to milliseconds, for the evidence.
    """

    generator_identity: str
    generation_id: GenerationId
    generated_at: datetime
    image: ImageFacts
    model_version: str
    collection: str
    profile: ProfileIdentity
    quality_millionths: int
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    embedded_by: str = ATTRIBUTOR


def rank(candidates: Sequence[ScoredCandidate], k: int) -> tuple[list[ScoredCandidate], list[ScoredCandidate]]:
    """The k nearest and the rest, nearest first; equal distances are settled by id."""
    ordered = sorted(candidates, key=lambda one: (one.distance_millionths, str(one.training_image_id)))
    return ordered[:k], ordered[k:]


def build_posting(
    valued: ValuedImage,
    policy: Policy,
    candidates: Sequence[ScoredCandidate],
    cards: Mapping[TrainingImageId, WorkCard],
) -> NewPosting:
    """The posting that `valued` causes under `policy`: the policy's k nearest candidates are paid.

    cards: rights of at least those k (see `rank`), each summing to 1,000,000 ppm. Each contributor's credit is
    divided among its beneficiaries by largest remainder; entries sum to zero. Raises InvalidValuation if a
    candidate repeats or its rights are missing or do not sum to one.
    """
    contributors, rest = rank(candidates, policy.k)
    value = policy.value(
        [str(one.training_image_id) for one in contributors],
        [one.distance_millionths for one in contributors],
        valued.quality_millionths,
    )
    contributions = tuple(
        _contribution(place, one, credit, share, cards.get(one.training_image_id))
        for place, (one, credit, share) in enumerate(
            zip(contributors, value.credit_micros, value.shares, strict=True), start=1
        )
    )
    evidence = Evidence(
        image=valued.image,
        model_version=valued.model_version,
        collection=valued.collection,
        policy=policy.parameters(),
        profile=valued.profile.name,
        profile_hash=valued.profile.hash,
        weights=valued.profile.weights,
        quality_millionths=valued.quality_millionths,
        issued_micros=value.issued_micros,
        unattributed_micros=value.unattributed_micros,
        unattributed_share=value.unattributed_share,
        contributions=contributions,
        near_misses=_near_misses(rest, len(contributors)),
        timings_ms=valued.timings_ms,
        embedded_by=valued.embedded_by,
    )
    entries = entries_of(value.issued_micros, value.unattributed_micros, contributions)
    posting = NewPosting(valued.generator_identity, valued.generation_id, valued.generated_at, entries, evidence)
    return _encoded(posting)


def _encoded(posting: NewPosting) -> NewPosting:
    """Encode it here, in the caller's thread, rather than in the ledger's one writer."""
    try:
        posting.encode()
    except ValueError as error:
        raise InvalidValuation(f"generation {posting.generation_id}: a stage's time is not a finite number") from error
    return posting


def entries_of(issued: int, unattributed: int, contributions: Sequence[Contribution]) -> tuple[Entry, ...]:
    """Entries, in line order: issuance, each contributor's payments nearest first, what is unattributed.

    Amounts of zero are left out (evidence keeps them). The sum is zero.
    """
    lines = [Entry(ISSUANCE, None, -issued)]
    for contribution in contributions:
        lines.extend(
            Entry(payment.account, contribution.training_image_id, payment.credit_micros)
            for payment in contribution.payments
        )
    lines.append(Entry(UNATTRIBUTED, None, unattributed))
    return tuple(line for line in lines if line.amount_micros != 0)


def payments_of(credit: int, rights: Sequence[tuple[str, int]]) -> tuple[Payment, ...]:
    """Divide a contributor's credit among (account, share in ppm) pairs, by account name.

    Raises InvalidValuation if shares do not sum to 1,000,000 or an account repeats.
    """
    ordered = sorted(rights)
    accounts, shares = [account for account, _ in ordered], [share for _, share in ordered]
    if sum(shares) != MILLION:
        raise InvalidValuation(f"rights of {sum(shares)} ppm cannot be paid: shares must sum to {MILLION}")
    parts = divide(credit, shares, accounts)
    return tuple(Payment(account, share, part) for account, share, part in zip(accounts, shares, parts, strict=True))


def _contribution(place: int, one: ScoredCandidate, credit: int, share: float, card: WorkCard | None) -> Contribution:
    if card is None:
        raise InvalidValuation(f"the rights in training image {one.training_image_id} were not looked up")
    payments = payments_of(credit, [_right(beneficiary) for beneficiary in card.beneficiaries])
    return Contribution(
        place,
        one.training_image_id,
        one.distance_millionths,
        one.clip_similarity_millionths,
        share,
        credit,
        payments,
    )


def _right(beneficiary: Beneficiary) -> tuple[str, int]:
    return beneficiary.account, beneficiary.share_ppm


def _near_misses(rest: Sequence[ScoredCandidate], paid: int) -> tuple[NearMiss, ...]:
    return tuple(
        NearMiss(place, one.training_image_id, one.distance_millionths)
        for place, one in enumerate(rest[:MAX_NEAR_MISSES], start=paid + 1)
    )
