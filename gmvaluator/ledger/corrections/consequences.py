"""From a decision's facts to its entries: pure, so that an auditor finds the same from the evidence alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gmvaluator.accounts import HELD, PAID, SUSPENSE
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger import decisions
from gmvaluator.ledger.canonical import canonical_json
from gmvaluator.ledger.corrections.lines import Place, added, amounts_of, entries_from, negated
from gmvaluator.ledger.posting import payments_of
from gmvaluator.ledger.records import Entry, Evidence
from gmvaluator.ledger.valued import recompute
from gmvaluator.valuation import divide

Facts = Mapping[str, Any]

_POTS = (HELD, SUSPENSE)
"""Accounts that a release takes from; owners keep what they have."""


def recomputed_decision(decision: decisions.Decision) -> tuple[Entry, ...]:
    """Entries that follow from the decision's facts. Raises ValueError, KeyError or TypeError if they are none."""
    return _CONSEQUENCES[decision.kind](decision.facts)


def release_amounts(have: Mapping[str, int], rights: Sequence[tuple[str, int]]) -> dict[str, int]:
    """What a release moves for one work of one posting, by account; sums to zero.

    have: what each account holds of the credit now. rights: (account, ppm) as known now. Suspense and held give up
    what they hold above their right; those below theirs share it in proportion to what they lack.
    """
    target = {payment.account: payment.credit_micros for payment in payments_of(sum(have.values()), rights)}
    surplus = {pot: max(0, have.get(pot, 0) - target.get(pot, 0)) for pot in _POTS}
    lacking = {account: max(0, amount - have.get(account, 0)) for account, amount in sorted(target.items())}
    moved = min(sum(surplus.values()), sum(lacking.values()))
    if moved == 0:
        return {}
    parts = divide(moved, list(lacking.values()), list(lacking))
    changes = dict(zip(lacking, parts, strict=True))
    for pot, amount in surplus.items():
        taken = min(amount, moved)
        changes[pot] = changes.get(pot, 0) - taken
        moved -= taken
    return {account: amount for account, amount in sorted(changes.items()) if amount}


def _released(facts: Facts) -> tuple[Entry, ...]:
    moved: dict[Place, int] = {}
    for work in facts["works"]:
        rights = [(account, share) for account, share in work["rights"]]
        for account, amount in release_amounts(dict(work["have"]), rights).items():
            moved[account, _work(work["training_image_id"])] = amount
    return entries_from(moved)


def _reversed(facts: Facts) -> tuple[Entry, ...]:
    return entries_from(negated(amounts_of(facts["found"])))


def _reattributed(facts: Facts) -> tuple[Entry, ...]:
    again = recompute(Evidence.from_json(canonical_json(facts["evidence"])))
    new: dict[Place, int] = {}
    for entry in again:
        new = added(new, {(entry.account, entry.training_image_id): entry.amount_micros})
    return entries_from(added(negated(amounts_of(facts["found"])), new))


def _held(facts: Facts) -> tuple[Entry, ...]:
    lines = amounts_of(facts["lines"])
    moved = negated(lines)
    for (_, work), amount in lines.items():
        moved = added(moved, {(HELD, work): amount})
    return entries_from(moved)


def _settled(facts: Facts) -> tuple[Entry, ...]:
    held: dict[Place, int] = {(HELD, _work(work)): amount for work, amount in facts["held"]}
    given = amounts_of(facts["returned"])
    if facts["award"] is not None:
        award = [(account, share) for account, share in facts["award"]]
        given = {
            (payment.account, work): payment.credit_micros
            for (_, work), amount in held.items()
            for payment in payments_of(amount, award)
        }
    if sum(given.values()) != sum(held.values()):
        raise InvalidValuation("a settlement gives back what was held, no more and no less")
    return entries_from(added(negated(held), given))


def _paid_out(facts: Facts) -> tuple[Entry, ...]:
    amount = facts["amount_micros"]
    return entries_from({(facts["account"], None): -amount, (PAID, None): amount})


def _nothing(_: Facts) -> tuple[Entry, ...]:
    return ()


def _work(text: str) -> TrainingImageId:
    return TrainingImageId(uuid.UUID(text))


_CONSEQUENCES: dict[str, Callable[[Facts], tuple[Entry, ...]]] = {
    decisions.RELEASE: _released,
    decisions.REVERSAL: _reversed,
    decisions.REATTRIBUTION: _reattributed,
    decisions.DISPUTE: _nothing,
    decisions.HOLD: _held,
    decisions.SETTLEMENT: _settled,
    decisions.VERDICT: _nothing,
    decisions.PAYOUT: _paid_out,
    decisions.CLOSE: _nothing,
}
