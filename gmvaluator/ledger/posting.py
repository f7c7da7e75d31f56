"""Postings of generated images: building one from a valuation, and recomputing its entries from its evidence.

Everything here is pure, and the result does not depend on the order of the candidates.
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
    parts_of,
    payments_of,
)
from gmvaluator.ledger.records import ATTRIBUTOR, Contribution, Entry, Evidence, ImageFacts, NewPosting
from gmvaluator.ports import WorkCard
from gmvaluator.profile import ProfileIdentity
from gmvaluator.valuation.parts import mask_text, read_mask
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION


@dataclass(frozen=True, slots=True)
class ValuedImage:
    """A generated image with everything that valuing it needs, except the candidates and their rights.

    quality_millionths: 0..1,000,000, higher is better. timings_ms: stage to milliseconds, for the evidence. unlisted:
    number of candidates that were recalled and are farther than those given. recall: share of the true neighbours that
    the index finds; None if it was never measured. content: mask of the cells that show anything; None if parts of the
    image were not examined.
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
    content: int | None = None


def build_posting(
    valued: ValuedImage,
    policy: Policy,
    candidates: Sequence[ScoredCandidate],
    cards: Mapping[TrainingImageId, WorkCard],
) -> NewPosting:
    """Return the posting that `valued` causes under `policy`, which pays its k nearest contributors.

    cards: at least those of the k contributors' members (see `rank`), with rights that sum to 1,000,000 ppm each. Each
    contributor's credit is divided among its beneficiaries by largest remainder; entries sum to zero. Raises
    InvalidValuation if a candidate repeats, or its rights are missing or do not sum to 1,000,000 ppm.
    """
    ownerships = {work: ownership_of(card) for work, card in cards.items()}
    content = None if policy.parts is None else valued.content
    allocation = allocate(
        policy, candidates, ownerships, valued.quality_millionths, valued.unlisted, valued.recall, content
    )
    value, contributions = allocation.value, allocation.contributions
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
        near_misses=allocation.near_misses,
        timings_ms=valued.timings_ms,
        embedded_by=valued.embedded_by,
        uncertainty=allocation.uncertainty,
        content=None if content is None else mask_text(content),
    )
    entries = entries_of(value.issued_micros, value.unattributed_micros, contributions)
    posting = NewPosting(valued.generator_identity, valued.generation_id, valued.generated_at, entries, evidence)
    return _encoded(posting)


def _encoded(posting: NewPosting) -> NewPosting:
    """Return the posting with its encoding computed. Raises InvalidValuation if a number is not finite."""
    # Encoding here, in the caller's thread, keeps the work off the ledger's only writer thread.
    try:
        posting.encode()
    except ValueError as error:
        raise InvalidValuation(f"generation {posting.generation_id}: a stage's time is not a finite number") from error
    return posting


def entries_of(issued: int, unattributed: int, contributions: Sequence[Contribution]) -> tuple[Entry, ...]:
    """Return the entries in line order: issuance, each contributor's payments nearest first, the unattributed part.

    Amounts of zero are left out; the evidence keeps them. The sum is zero.
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
    """Return the entries that follow from distances, groups, quality, rights, intervals and policy parameters.

    Stored credits and shares are not read, so that the result can be compared with what was posted.
    """
    policy = Policy.from_parameters(evidence.policy)
    stored = {contribution.training_image_id: contribution for contribution in evidence.contributions}
    groups = group_candidates(candidates_from_evidence(evidence), policy)
    value = policy.value(
        [str(group.name) for group in groups],
        [group.distance_millionths for group in groups],
        evidence.quality_millionths,
        parts_of(groups, content_of(evidence)),
    )
    recomputed = {
        contribution.training_image_id: contribution
        for group, credit in zip(groups, value.credit_micros, strict=True)
        for contribution in _recompute_group(policy, group, credit, stored)
    }
    return entries_of(
        value.issued_micros,
        value.unattributed_micros,
        [recomputed[contribution.training_image_id] for contribution in evidence.contributions],
    )


def candidates_from_evidence(evidence: Evidence) -> list[ScoredCandidate]:
    """Return the evidence's contributors as candidates, as they were before the valuation."""
    return [
        ScoredCandidate(
            contribution.training_image_id,
            contribution.distance_millionths,
            contribution.clip_similarity_millionths,
            contribution.group,
            contribution.sighting,
            contribution.work_mask,
        )
        for contribution in evidence.contributions
    ]


def content_of(evidence: Evidence) -> int | None:
    """Return the mask of the cells that show anything; None if parts of the image were not examined."""
    return None if evidence.content is None else read_mask(evidence.content)


def ownerships_of(evidence: Evidence) -> dict[TrainingImageId, Ownership]:
    """Return the ownership of the evidence's contributors as it was when they were valued."""
    return {contribution.training_image_id: _ownership(contribution) for contribution in evidence.contributions}


def _ownership(contribution: Contribution) -> Ownership:
    return Ownership(contribution.rights, contribution.claim_number)


def _recompute_group(
    policy: Policy, group: Group, credit: int, stored: Mapping[TrainingImageId, Contribution]
) -> Iterator[Contribution]:
    members = [stored[member.training_image_id] for member in group.members]
    weights = member_weights(group, [_ownership(member) for member in members], policy)
    for member, amount in zip(members, divide_among_members(credit, group, weights), strict=True):
        rights = [(HELD, MILLION)] if holds_back(policy, member.interval) else member.rights
        yield replace(member, credit_micros=amount, payments=payments_of(amount, rights))
