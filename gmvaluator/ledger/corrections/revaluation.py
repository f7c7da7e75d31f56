"""What another policy makes of stored evidence: the same candidates, distances, quality and rights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from gmvaluator.accounts import SUSPENSE
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.allotment import allot
from gmvaluator.ledger.corrections.lines import Place, added
from gmvaluator.ledger.groups import ScoredCandidate, Title, title_of
from gmvaluator.ledger.records import Evidence, NearMiss
from gmvaluator.ledger.valued import candidates_of, recompute, titles_of
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


Released = Mapping[TrainingImageId, tuple[tuple[str, int], ...]]
"""See `decided.released_rights`."""


def revalued(
    evidence: Evidence,
    policy: Policy,
    cards: Mapping[TrainingImageId, WorkCard],
    released: Released = MappingProxyType({}),
) -> Revaluation:
    """Value the evidence's candidates under `policy`.

    Those who were paid keep the rights that the evidence holds, or those by which they were released. cards: rights of
    candidates that just missed; one that is not in it goes to suspense, as an unknown owner's does. Near-copies are
    known as far as the evidence tells: a policy without groups has left none.
    """
    candidates = [*candidates_of(evidence), *(_promoted(miss) for miss in evidence.near_misses)]
    titles = {**{miss.training_image_id: _title(miss, cards) for miss in evidence.near_misses}, **titles_of(evidence)}
    titles |= {work: replace(titles[work], rights=rights) for work, rights in released.items() if work in titles}
    known = evidence.uncertainty or {}
    found = allot(
        policy, candidates, titles, evidence.quality_millionths, known.get("unlisted", 0), known.get("recall")
    )
    again = replace(
        evidence,
        policy=policy.parameters(),
        issued_micros=found.value.issued_micros,
        unattributed_micros=found.value.unattributed_micros,
        unattributed_share=found.value.unattributed_share,
        contributions=found.contributions,
        near_misses=found.near_misses,
        uncertainty=found.uncertainty,
    )
    contributors = len({one.rank for one in evidence.contributions}) + len(evidence.near_misses)
    return Revaluation(again, cut_short=bool(evidence.near_misses) and policy.k > contributors)


def _promoted(miss: NearMiss) -> ScoredCandidate:
    return ScoredCandidate(miss.training_image_id, miss.distance_millionths, 0)


def _title(miss: NearMiss, cards: Mapping[TrainingImageId, WorkCard]) -> Title:
    card = cards.get(miss.training_image_id)
    return Title(((SUSPENSE, MILLION),), None) if card is None else title_of(card)
