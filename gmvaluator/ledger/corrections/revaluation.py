"""What another policy makes of stored evidence: the same candidates, distances, quality and rights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.corrections.lines import Place, added
from gmvaluator.ledger.posting import payments_of
from gmvaluator.ledger.records import SUSPENSE, Contribution, Evidence, NearMiss
from gmvaluator.ledger.valued import recompute
from gmvaluator.policy import Policy
from gmvaluator.ports import WorkCard
from gmvaluator.valuation import MILLION


@dataclass(frozen=True, slots=True)
class Revaluation:
    """Evidence as `policy` would have made it. cut_short: it pays more candidates than the evidence kept."""

    evidence: Evidence
    cut_short: bool

    def amounts(self) -> dict[Place, int]:
        """What would have been posted, by account and work."""
        total: dict[Place, int] = {}
        for entry in recompute(self.evidence):
            total = added(total, {(entry.account, entry.training_image_id): entry.amount_micros})
        return total


def revalued(evidence: Evidence, policy: Policy, cards: Mapping[TrainingImageId, WorkCard]) -> Revaluation:
    """Value the evidence's candidates under `policy`.

    Those who were paid keep the rights that the evidence holds. cards: rights of candidates that just missed; one
    that is not in it goes to suspense, as an unknown owner's does.
    """
    candidates = [*evidence.contributions, *(_promoted(miss, cards) for miss in evidence.near_misses)]
    paid, rest = candidates[: policy.k], candidates[policy.k :]
    value = policy.value(
        [str(one.training_image_id) for one in paid],
        [one.distance_millionths for one in paid],
        evidence.quality_millionths,
    )
    contributions = tuple(
        _valued(one, place, credit, share)
        for place, (one, credit, share) in enumerate(zip(paid, value.credit_micros, value.shares, strict=True), start=1)
    )
    again = replace(
        evidence,
        policy=policy.parameters(),
        issued_micros=value.issued_micros,
        unattributed_micros=value.unattributed_micros,
        unattributed_share=value.unattributed_share,
        contributions=contributions,
        near_misses=tuple(NearMiss(one.rank, one.training_image_id, one.distance_millionths) for one in rest),
    )
    return Revaluation(again, cut_short=bool(evidence.near_misses) and policy.k > len(candidates))


def _promoted(miss: NearMiss, cards: Mapping[TrainingImageId, WorkCard]) -> Contribution:
    card = cards.get(miss.training_image_id)
    rights = [(SUSPENSE, MILLION)] if card is None else [(one.account, one.share_ppm) for one in card.beneficiaries]
    payments = payments_of(0, rights)
    return Contribution(miss.rank, miss.training_image_id, miss.distance_millionths, 0, 0.0, 0, payments)


def _valued(one: Contribution, place: int, credit: int, share: float) -> Contribution:
    payments = payments_of(credit, [(payment.account, payment.share_ppm) for payment in one.payments])
    return replace(one, rank=place, credit_micros=credit, share=share, payments=payments)
