"""A generation's entries, recomputed from its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from gmvaluator.accounts import HELD
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.allotment import holds_back, payments_of
from gmvaluator.ledger.groups import Group, ScoredCandidate, Title, divided, groups_of, parts_of
from gmvaluator.ledger.posting import entries_of
from gmvaluator.ledger.records import Contribution, Entry, Evidence
from gmvaluator.policy import Policy
from gmvaluator.valuation import MILLION


def recompute(evidence: Evidence) -> tuple[Entry, ...]:
    """Entries that follow from distances, groups, quality, rights, intervals and policy parameters.

    Stored credits and shares are not read.
    """
    policy = Policy.from_parameters(evidence.policy)
    stored = {one.training_image_id: one for one in evidence.contributions}
    groups = groups_of(candidates_of(evidence), policy)
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


def candidates_of(evidence: Evidence) -> list[ScoredCandidate]:
    """The evidence's contributors as they were before they were valued."""
    return [
        ScoredCandidate(one.training_image_id, one.distance_millionths, one.clip_similarity_millionths, one.group)
        for one in evidence.contributions
    ]


def titles_of(evidence: Evidence) -> dict[TrainingImageId, Title]:
    """Who had the rights in the evidence's contributors."""
    return {one.training_image_id: Title(one.rights, one.claim_number) for one in evidence.contributions}


def _paid_again(
    policy: Policy, group: Group, credit: int, stored: Mapping[TrainingImageId, Contribution]
) -> Iterator[Contribution]:
    members = [stored[one.training_image_id] for one in group.members]
    parts = parts_of(group, [Title(one.rights, one.claim_number) for one in members], policy)
    for one, amount in zip(members, divided(credit, group, parts), strict=True):
        rights = [(HELD, MILLION)] if holds_back(policy, one.interval) else one.rights
        yield replace(one, credit_micros=amount, payments=payments_of(amount, rights))
