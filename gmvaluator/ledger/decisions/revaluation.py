"""Past evidence valued under another policy, side by side with what was posted; nothing is posted.

What another policy makes of stored evidence: the same candidates, distances, quality and rights.
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
from gmvaluator.ledger.decision_effects import AccountWork, amounts_by_work
from gmvaluator.ledger.decisions.release import RightsAt
from gmvaluator.ledger.posting import candidates_from_evidence, ownerships_of, recompute_entries
from gmvaluator.ledger.records import ATTRIBUTION, Evidence, NearMiss, StoredPosting
from gmvaluator.ports import WorkCard
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION


@dataclass(frozen=True, slots=True)
class Revaluation:
    """Evidence as `policy` would have made it. cut_short: it pays more candidates than the evidence kept."""

    evidence: Evidence
    cut_short: bool

    def amounts(self) -> dict[AccountWork, int]:
        """What would have been posted, by account and work."""
        return amounts_by_work(recompute_entries(self.evidence))


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
    candidates = [*candidates_from_evidence(evidence), *(_promoted(miss) for miss in evidence.near_misses)]
    titles = {
        **{miss.training_image_id: _title(miss, cards) for miss in evidence.near_misses},
        **ownerships_of(evidence),
    }
    titles |= {work: replace(titles[work], rights=rights) for work, rights in released.items() if work in titles}
    known = evidence.uncertainty or {}
    found = allocate(
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


def _title(miss: NearMiss, cards: Mapping[TrainingImageId, WorkCard]) -> Ownership:
    card = cards.get(miss.training_image_id)
    return Ownership(((SUSPENSE, MILLION),), None) if card is None else ownership_of(card)


@dataclass(slots=True)
class Comparison:
    """Sums over all generations compared, by account.

    changed: generations of which any account would have another amount. cut_short: generations of which the policy
    pays more candidates than the evidence kept, so that its side is only what is known.
    """

    policy: str
    generations: int = 0
    changed: int = 0
    cut_short: int = 0
    posted: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: a line an account, issuance left out, the largest difference first."""
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
    """What each generation's posting paid, beside what `policy` would have paid for the same evidence.

    rights: for candidates that just missed being paid; without it they are counted as suspense.
    """
    found = Comparison(policy.reference)
    for posting in postings:
        if posting.header.kind == ATTRIBUTION:
            _add(found, posting, policy, rights)
    return found


def _add(found: Comparison, posting: StoredPosting, policy: Policy, rights: RightsAt | None) -> None:
    evidence = posting.evidence
    missed = [miss.training_image_id for miss in evidence.near_misses]
    wanted = missed if policy.k > len(evidence.contributions) else []
    cards = rights.works(wanted, from_utc_text(posting.header.generated_at)) if rights and wanted else {}
    again = revalued(evidence, policy, cards)
    was = {**posting.changes(), ISSUANCE: -posting.header.issued_micros}
    now: Counter[str] = Counter()
    for (account, _), amount in again.amounts().items():
        now[account] += amount
    for sums, amounts in ((found.posted, was), (found.compared, now)):
        for account, amount in amounts.items():
            sums[account] += amount
    found.generations += 1
    found.changed += {key: value for key, value in was.items() if value} != {
        key: value for key, value in now.items() if value
    }
    found.cut_short += again.cut_short
