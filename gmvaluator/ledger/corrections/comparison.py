"""Past evidence valued under another policy, side by side with what was posted; nothing is posted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gmvaluator.database.utc import from_utc_text
from gmvaluator.ledger.corrections.release import RightsAt
from gmvaluator.ledger.corrections.revaluation import revalued
from gmvaluator.ledger.records import ATTRIBUTION, ISSUANCE, StoredPosting
from gmvaluator.policy import Policy


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
    posted: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)

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
    now: dict[str, int] = {}
    for (account, _), amount in again.amounts().items():
        now[account] = now.get(account, 0) + amount
    for sums, amounts in ((found.posted, was), (found.compared, now)):
        for account, amount in amounts.items():
            sums[account] = sums.get(account, 0) + amount
    found.generations += 1
    found.changed += {key: value for key, value in was.items() if value} != {
        key: value for key, value in now.items() if value
    }
    found.cut_short += again.cut_short
