"""Valuation of stored evidence under another policy, and its comparison with what was posted.

The candidates, distances, quality and rights stay those of the evidence. Nothing is posted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from gmvaluator.accounts import ISSUANCE, SUSPENSE
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.allocation import Ownership, ScoredCandidate, allocate, ownership_of
from gmvaluator.ledger.decisions.release import RightsAt
from gmvaluator.ledger.posting import candidates_from_evidence, content_of, ownerships_of, recompute_entries
from gmvaluator.ledger.records import ATTRIBUTION, Evidence, NearMiss, StoredPosting, sum_by_account
from gmvaluator.ports import WorkCard
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION


@dataclass(frozen=True, slots=True)
class Revaluation:
    """Evidence as another policy would have made it.

    cut_short: the policy pays more candidates than the evidence holds, so that some are missing.
    """

    evidence: Evidence
    cut_short: bool


ReleasedRights = Mapping[TrainingImageId, tuple[tuple[str, int], ...]]
"""(account, ppm) pairs of each released work; see `reversal.released_rights`."""


def revalue(
    evidence: Evidence,
    policy: Policy,
    cards: Mapping[TrainingImageId, WorkCard],
    released: ReleasedRights = MappingProxyType({}),
) -> Revaluation:
    """Value the evidence's candidates under `policy`.

    Candidates that were paid keep the rights in the evidence, or the rights by which they were released. cards: rights
    of the near misses; the credit of one without a card goes to suspense, like that of an unknown owner.
    Near-duplicates are known only as far as the evidence has them: evidence of a policy without groups has none.
    """
    candidates = [*candidates_from_evidence(evidence), *(_as_candidate(miss) for miss in evidence.near_misses)]
    ownerships = {
        **{miss.training_image_id: _ownership(miss, cards) for miss in evidence.near_misses},
        **ownerships_of(evidence),
    }
    ownerships |= {
        work: replace(ownerships[work], rights=rights) for work, rights in released.items() if work in ownerships
    }
    uncertainty = evidence.uncertainty or {}
    allocation = allocate(
        policy,
        candidates,
        ownerships,
        evidence.quality_millionths,
        uncertainty.get("unlisted", 0),
        uncertainty.get("recall"),
        content_of(evidence),
    )
    again = replace(
        evidence,
        policy=policy.parameters(),
        issued_micros=allocation.value.issued_micros,
        unattributed_micros=allocation.value.unattributed_micros,
        unattributed_share=allocation.value.unattributed_share,
        contributions=allocation.contributions,
        near_misses=allocation.near_misses,
        uncertainty=allocation.uncertainty,
    )
    # Near-duplicates that count as one contributor share a rank. Evidence without near misses holds all candidates
    # that there were, so that a larger k misses none.
    contributors = len({contribution.rank for contribution in evidence.contributions}) + len(evidence.near_misses)
    return Revaluation(again, cut_short=bool(evidence.near_misses) and policy.k > contributors)


def _as_candidate(miss: NearMiss) -> ScoredCandidate:
    return ScoredCandidate(miss.training_image_id, miss.distance_millionths, 0)


def _ownership(miss: NearMiss, cards: Mapping[TrainingImageId, WorkCard]) -> Ownership:
    card = cards.get(miss.training_image_id)
    return Ownership(((SUSPENSE, MILLION),), None) if card is None else ownership_of(card)


@dataclass(slots=True)
class Comparison:
    """Sums in micro-credits over all compared generations, by account: as posted, and under the other policy.

    changed: generations in which an account would have another amount. cut_short: generations of which the policy pays
    more candidates than the evidence holds, so that `compared` is incomplete.
    """

    policy: str
    generations: int = 0
    changed: int = 0
    cut_short: int = 0
    posted: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with a line for each account but issuance, the largest difference first."""
        accounts = (self.posted.keys() | self.compared.keys()) - {ISSUANCE}
        lines = [(account, self.posted.get(account, 0), self.compared.get(account, 0)) for account in accounts]
        lines.sort(key=lambda line: (-abs(line[2] - line[1]), line[0]))
        return {
            "policy": self.policy,
            "generations": self.generations,
            "changed": self.changed,
            "cut_short": self.cut_short,
            "issued_micros": -self.posted.get(ISSUANCE, 0),
            "compared_issued_micros": -self.compared.get(ISSUANCE, 0),
            "accounts": [
                {"account": account, "posted_micros": was, "compared_micros": now, "difference_micros": now - was}
                for account, was, now in lines
            ],
        }


def compare(postings: Iterable[StoredPosting], policy: Policy, rights: RightsAt | None) -> Comparison:
    """Compare what each generation's posting paid with what `policy` would have paid for the same evidence.

    rights: source of the rights of near misses; without it their credit counts as suspense.
    """
    comparison = Comparison(policy.reference)
    for posting in postings:
        if posting.header.kind == ATTRIBUTION:
            _add(comparison, posting, policy, rights)
    return comparison


def _add(comparison: Comparison, posting: StoredPosting, policy: Policy, rights: RightsAt | None) -> None:
    evidence = posting.evidence
    # Near misses are paid only by a policy with a larger k; otherwise their rights need not be queried.
    near_misses = evidence.near_misses if policy.k > len(evidence.contributions) else ()
    works = [miss.training_image_id for miss in near_misses]
    cards = rights.works(works, from_utc_text(posting.header.generated_at)) if rights and works else {}
    again = revalue(evidence, policy, cards)
    posted = Counter({**posting.changes(), ISSUANCE: -posting.header.issued_micros})
    compared = Counter(sum_by_account(recompute_entries(again.evidence)))
    comparison.posted.update(posted)
    comparison.compared.update(compared)
    comparison.generations += 1
    comparison.changed += posted != compared
    comparison.cut_short += again.cut_short
