"""From a valued image to a posting: pure, and the same whatever order the candidates came in.

A generation's entries, recomputed from its evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from gmvaluator.accounts import HELD, ISSUANCE, UNATTRIBUTED
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import GenerationId, TrainingImageId
from gmvaluator.ledger.allocation import (
    Group,
    Ownership,
    ScoredCandidate,
    allocate,
    divide_among_members,
    group_candidates,
    holds_back,
    member_weights,
    ownership_of,
    payments_of,
)
from gmvaluator.ledger.records import ATTRIBUTOR, Contribution, Entry, Evidence, ImageFacts, NewPosting
from gmvaluator.ports import WorkCard
from gmvaluator.profile import ProfileIdentity
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION


@dataclass(frozen=True, slots=True)
class ValuedImage:
    """A generated image with all that valuing it takes, but for the candidates and their rights.

    quality_millionths: 0..1,000,000, higher is better. timings_ms: stage to milliseconds, for the evidence. unlisted:
    candidates that were recalled and lie behind those given. recall: share of the true neighbours that the index
    finds; None if it was never measured.
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
    unlisted: int = 0
    recall: float | None = None


def build_posting(
    valued: ValuedImage,
    policy: Policy,
    candidates: Sequence[ScoredCandidate],
    cards: Mapping[TrainingImageId, WorkCard],
) -> NewPosting:
    """The posting that `valued` causes under `policy`: the policy's k nearest contributors are paid.

    cards: rights of at least those k's members (see `rank`), each summing to 1,000,000 ppm. Each contributor's credit
    is divided among its beneficiaries by largest remainder; entries sum to zero. Raises InvalidValuation if a
    candidate repeats or its rights are missing or do not sum to one.
    """
    titles = {work: ownership_of(card) for work, card in cards.items()}
    found = allocate(policy, candidates, titles, valued.quality_millionths, valued.unlisted, valued.recall)
    value, contributions = found.value, found.contributions
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
        near_misses=found.near_misses,
        timings_ms=valued.timings_ms,
        embedded_by=valued.embedded_by,
        uncertainty=found.uncertainty,
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


def recompute_entries(evidence: Evidence) -> tuple[Entry, ...]:
    """Entries that follow from distances, groups, quality, rights, intervals and policy parameters.

    Stored credits and shares are not read.
    """
    policy = Policy.from_parameters(evidence.policy)
    stored = {one.training_image_id: one for one in evidence.contributions}
    groups = group_candidates(candidates_from_evidence(evidence), policy)
    value = policy.value(
        [str(group.name) for group in groups],
        [group.distance_millionths for group in groups],
        evidence.quality_millionths,
    )
    paid = {
        one.training_image_id: one
        for group, credit in zip(groups, value.credit_micros, strict=True)
        for one in _paid_again(policy, group, credit, stored)
    }
    return entries_of(
        value.issued_micros,
        value.unattributed_micros,
        [paid[one.training_image_id] for one in evidence.contributions],
    )


def candidates_from_evidence(evidence: Evidence) -> list[ScoredCandidate]:
    """The evidence's contributors as they were before they were valued."""
    return [
        ScoredCandidate(one.training_image_id, one.distance_millionths, one.clip_similarity_millionths, one.group)
        for one in evidence.contributions
    ]


def ownerships_of(evidence: Evidence) -> dict[TrainingImageId, Ownership]:
    """Who had the rights in the evidence's contributors."""
    return {one.training_image_id: Ownership(one.rights, one.claim_number) for one in evidence.contributions}


def _paid_again(
    policy: Policy, group: Group, credit: int, stored: Mapping[TrainingImageId, Contribution]
) -> Iterator[Contribution]:
    members = [stored[one.training_image_id] for one in group.members]
    parts = member_weights(group, [Ownership(one.rights, one.claim_number) for one in members], policy)
    for one, amount in zip(members, divide_among_members(credit, group, parts), strict=True):
        rights = [(HELD, MILLION)] if holds_back(policy, one.interval) else one.rights
        yield replace(one, credit_micros=amount, payments=payments_of(amount, rights))
