"""What another policy would have paid for the same answers, for a look beside what was paid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gmvaluator.accounts import UNATTRIBUTED
from gmvaluator.policy import Policy
from gmvaluator.valuation import distance_millionths, divide, quality_millionths


def credits_by_account(finals: Iterable[Mapping[str, Any]], policy: Policy) -> dict[str, int]:
    """Micro-credits by account for FINAL answers, as `attribution_dict` gives them, had `policy` valued them.

    The contributors are those of the answers: a policy of a larger k would have had more of them.
    """
    totals: dict[str, int] = {}
    for final in finals:
        for account, credit in _one(final, policy).items():
            totals[account] = totals.get(account, 0) + credit
    return totals


def _one(final: Mapping[str, Any], policy: Policy) -> dict[str, int]:
    contributors = final["contributors"][: policy.k]
    value = policy.value(
        [one["training_image_id"] for one in contributors],
        [distance_millionths(one["perceptual_distance"]) for one in contributors],
        quality_millionths(final["quality"]),
    )
    totals = {UNATTRIBUTED: value.unattributed_micros}
    for one, credit in zip(contributors, value.credit_micros, strict=True):
        payees = sorted(one["payees"], key=lambda payee: str(payee["account"]))
        accounts = [payee["account"] for payee in payees]
        for account, part in zip(
            accounts, divide(credit, [payee["share_ppm"] for payee in payees], accounts), strict=True
        ):
            totals[account] = totals.get(account, 0) + part
    return totals
