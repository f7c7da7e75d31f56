"""Entries that follow from a decision's facts, and amounts by account and work as JSON and as entries.

Everything here is pure: an auditor computes the same entries from the evidence alone.
"""

from __future__ import annotations

import uuid
from collections import Counter
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
"""An account and the work whose credit it holds; None for amounts that belong to no work."""

Amounts = Mapping[AccountWork, int]
"""Micro-credits by account and work."""

PlainLine = Sequence[Any]
"""[account, training image id or null, micro-credits]: a line as the evidence stores it."""


def amounts_to_json(amounts: Amounts) -> list[list[Any]]:
    """Return the amounts other than zero as JSON lines, ordered by account and work."""
    return [
        [account, None if work is None else str(work), amounts[account, work]]
        for account, work in sorted(amounts, key=_order)
        if amounts[account, work] != 0
    ]


def amounts_from_json(lines: Iterable[PlainLine]) -> dict[AccountWork, int]:
    """Parse the result of `amounts_to_json`; lines of the same account and work are added up."""
    amounts: Counter[AccountWork] = Counter()
    for account, work, amount in lines:
        amounts[account, None if work is None else _work(work)] += amount
    return dict(amounts)


def entries_from(amounts: Amounts) -> tuple[Entry, ...]:
    """Return entries with these amounts, ordered by account and work; zeros are left out."""
    return tuple(
        Entry(account, work, amounts[account, work])
        for account, work in sorted(amounts, key=_order)
        if amounts[account, work] != 0
    )


def add_amounts(*parts: Amounts) -> dict[AccountWork, int]:
    """Return the sum of all `parts` by account and work."""
    total: Counter[AccountWork] = Counter()
    for part in parts:
        for key, amount in part.items():
            total[key] += amount
    return dict(total)


def amounts_by_work(entries: Iterable[Entry]) -> dict[AccountWork, int]:
    """Return the micro-credits of entries by account and work."""
    return add_amounts(*({(entry.account, entry.training_image_id): entry.amount_micros} for entry in entries))


def negate_amounts(amounts: Amounts) -> dict[AccountWork, int]:
    """Return each amount with the opposite sign."""
    return {key: -amount for key, amount in amounts.items()}


def _order(key: AccountWork) -> tuple[str, str]:
    account, work = key
    return account, "" if work is None else str(work)


Facts = Mapping[str, Any]

_POTS = (HELD, SUSPENSE)
"""Accounts that a release takes from; owners keep what they have."""


def decision_entries(decision: decisions.Decision) -> tuple[Entry, ...]:
    """Return the entries that follow from a decision's facts. Raises ValueError, KeyError or TypeError if malformed."""
    return _ENTRIES_BY_KIND[decision.kind](decision.facts)


def release_amounts(have: Mapping[str, int], rights: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Return what a release moves for one work of one posting, in micro-credits by account; the sum is zero.

    have: what each account holds of the credit now. rights: (account, ppm) as known now. Suspense and held give up
    what they hold above their share; accounts below their share receive it in proportion to what they lack.
    """
    target = {payment.account: payment.credit_micros for payment in payments_of(sum(have.values()), rights)}
    # Owners keep what they have: only a dispute, a reversal or another valuation takes it from them.
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
    # All of it, even if an account has less by now: reversing only what is left would let a payout launder an error.
    # The debt is recovered from the owner's later credits.
    return entries_from(negate_amounts(amounts_from_json(facts["found"])))


def _reattributed(facts: Facts) -> tuple[Entry, ...]:
    # The evidence is the one that another policy, or other rights, would have made; its credits are not trusted.
    revalued = recompute_entries(Evidence.from_json(canonical_json(facts["evidence"])))
    return entries_from(add_amounts(negate_amounts(amounts_from_json(facts["found"])), amounts_by_work(revalued)))


def _held(facts: Facts) -> tuple[Entry, ...]:
    taken = amounts_from_json(facts["lines"])
    held = add_amounts(*({(HELD, work): amount} for (_, work), amount in taken.items()))
    return entries_from(add_amounts(negate_amounts(taken), held))


def _settled(facts: Facts) -> tuple[Entry, ...]:
    held: dict[AccountWork, int] = {(HELD, _work(work)): amount for work, amount in facts["held"]}
    given: Amounts = amounts_from_json(facts["returned"])
    if facts["award"] is not None:
        award = [(account, share) for account, share in facts["award"]]
        given = {
            (payment.account, work): payment.credit_micros
            for (_, work), amount in held.items()
            for payment in payments_of(amount, award)
        }
    if sum(given.values()) != sum(held.values()):
        raise InvalidValuation("a settlement gives back what was held, no more and no less")
    return entries_from(add_amounts(negate_amounts(held), given))


def _paid_out(facts: Facts) -> tuple[Entry, ...]:
    amount = facts["amount_micros"]
    return entries_from({(facts["account"], None): -amount, (PAID, None): amount})


def _nothing(_: Facts) -> tuple[Entry, ...]:
    return ()


def _work(text: str) -> TrainingImageId:
    return TrainingImageId(uuid.UUID(text))


_ENTRIES_BY_KIND: dict[str, Callable[[Facts], tuple[Entry, ...]]] = {
    decisions.RELEASE: _released,
    decisions.REVERSAL: _reversed,
    decisions.REATTRIBUTION: _reattributed,
    decisions.DISPUTE: _nothing,
    decisions.HOLD: _held,
    decisions.SETTLEMENT: _settled,
    decisions.VERDICT: _nothing,
    decisions.PAYOUT: _paid_out,
    decisions.CLOSE: _nothing,
    decisions.REFERENCE: _nothing,
}
