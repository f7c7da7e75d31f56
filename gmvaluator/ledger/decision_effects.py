"""From a decision's facts to its entries: pure, so that an auditor finds the same from the evidence alone.

Amounts by account and work, as plain data in evidence and as entries.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gmvaluator.accounts import HELD, PAID, SUSPENSE
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger import decision as decisions
from gmvaluator.ledger.allocation import payments_of
from gmvaluator.ledger.hash_chain import canonical_json
from gmvaluator.ledger.posting import recompute_entries
from gmvaluator.ledger.records import Entry, Evidence
from gmvaluator.valuation.weights import divide

AccountWork = tuple[str, TrainingImageId | None]
"""An account, and the work whose credit it is."""

Amounts = Mapping[AccountWork, int]
"""Micro-credits by place."""

PlainLine = Sequence[Any]
"""[account, training image id or null, amount]: a line as evidence has it."""


def amounts_to_json(amounts: Amounts) -> list[list[Any]]:
    """Amounts other than zero, by account and work."""
    return [
        [account, None if work is None else str(work), amounts[account, work]]
        for account, work in sorted(amounts, key=_order)
        if amounts[account, work] != 0
    ]


def amounts_of(lines: Iterable[PlainLine]) -> dict[AccountWork, int]:
    """Inverse of `amounts_to_json`; a place that repeats adds up."""
    amounts: dict[AccountWork, int] = {}
    for account, work, amount in lines:
        place = account, None if work is None else TrainingImageId(uuid.UUID(work))
        amounts[place] = amounts.get(place, 0) + amount
    return amounts


def entries_from(amounts: Amounts) -> tuple[Entry, ...]:
    """Entries of these amounts, by account and work; zeros are left out."""
    return tuple(
        Entry(account, work, amounts[account, work])
        for account, work in sorted(amounts, key=_order)
        if amounts[account, work] != 0
    )


def added(*parts: Amounts) -> dict[AccountWork, int]:
    """Sum by place."""
    total: dict[AccountWork, int] = {}
    for part in parts:
        for place, amount in part.items():
            total[place] = total.get(place, 0) + amount
    return total


def negated(amounts: Amounts) -> dict[AccountWork, int]:
    """Each amount with its sign turned."""
    return {place: -amount for place, amount in amounts.items()}


def _order(place: AccountWork) -> tuple[str, str]:
    return place[0], "" if place[1] is None else str(place[1])


Facts = Mapping[str, Any]

_POTS = (HELD, SUSPENSE)
"""Accounts that a release takes from; owners keep what they have."""


def decision_entries(decision: decisions.Decision) -> tuple[Entry, ...]:
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
    moved: dict[AccountWork, int] = {}
    for work in facts["works"]:
        rights = [(account, share) for account, share in work["rights"]]
        for account, amount in release_amounts(dict(work["have"]), rights).items():
            moved[account, _work(work["training_image_id"])] = amount
    return entries_from(moved)


def _reversed(facts: Facts) -> tuple[Entry, ...]:
    return entries_from(negated(amounts_of(facts["found"])))


def _reattributed(facts: Facts) -> tuple[Entry, ...]:
    again = recompute_entries(Evidence.from_json(canonical_json(facts["evidence"])))
    new: dict[AccountWork, int] = {}
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
    held: dict[AccountWork, int] = {(HELD, _work(work)): amount for work, amount in facts["held"]}
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
