"""A generation's entries, recomputed from its evidence."""

from __future__ import annotations

from dataclasses import replace

from gmvaluator.ledger.posting import entries_of, payments_of
from gmvaluator.ledger.records import Contribution, Entry, Evidence
from gmvaluator.policy import Policy


def recompute(evidence: Evidence) -> tuple[Entry, ...]:
    """Entries that follow from distances, quality, rights and policy parameters; stored credits are not read."""
    value = Policy.from_parameters(evidence.policy).value(
        [str(one.training_image_id) for one in evidence.contributions],
        [one.distance_millionths for one in evidence.contributions],
        evidence.quality_millionths,
    )
    contributions = [
        _paid_again(one, credit) for one, credit in zip(evidence.contributions, value.credit_micros, strict=True)
    ]
    return entries_of(value.issued_micros, value.unattributed_micros, contributions)


def _paid_again(one: Contribution, credit: int) -> Contribution:
    payments = payments_of(credit, [(payment.account, payment.share_ppm) for payment in one.payments])
    return replace(one, credit_micros=credit, payments=payments)
