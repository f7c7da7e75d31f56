"""Closing of a period: a checklist, a posting that fixes the period's balances, and the operator's signature."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, not_, select, true

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.auth.signing import Signed, Signer
from gmvaluator.errors import Conflict, NotFound, PreconditionFailed
from gmvaluator.ledger.calendar import Calendar, Closing, Period, closings, read_calendar
from gmvaluator.ledger.checkpoints import checkpoint_of, store_checkpoint
from gmvaluator.ledger.decision import CLOSE, Decision, Links, NewDecision, decision_id
from gmvaluator.ledger.decisions.dispute_holds import hold_all, search_disputes
from gmvaluator.ledger.decisions.disputes import read_unsettled_disputes
from gmvaluator.ledger.decisions.release import RightsAt, due_releases, pages_to_release
from gmvaluator.ledger.payouts.currencies import minor_digits
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.queries import amount_sum, entries_and_postings, is_owner, sums_by_account
from gmvaluator.ledger.reader import read_head, read_totals
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.storage.schema import utc_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class BalancesRead:
    """Every account's balance at the end of a period, as far as it followed from the postings up to `through`."""

    through: int
    calendar: Calendar
    balances: dict[str, int]

    def now(self, connection: Connection, calendar: Calendar, period: Period) -> dict[str, int]:
        """Return the balances at the end of the period as of now, zeros left out."""
        if calendar != self.calendar:
            return _balances_at(connection, calendar, period)
        # Entries never change: only those that were posted since are read.
        since = _balances_at(connection, calendar, period, self.through)
        sums = Counter(self.balances)
        sums.update(since)
        return {account: amount for account, amount in sums.items() if amount}


def read_balances(book: Ledger, period: Period) -> BalancesRead:
    """Read the balances at the end of a period; reads all entries up to it."""
    with book.snapshot() as connection:
        calendar = read_calendar(connection)
        return BalancesRead(read_head(connection).sequence, calendar, _balances_at(connection, calendar, period))


def _balances_at(connection: Connection, calendar: Calendar, period: Period, after: int = 0) -> dict[str, int]:
    conditions = calendar.upto(period), entries.c.sequence > after
    return sums_by_account(connection, *conditions, source=entries_and_postings)


def disputed_since(
    connection: Connection, calendar: Calendar, period: Period, within: ColumnElement[bool] | None = None
) -> dict[str, int]:
    """Return, by owner's account, what disputes took after a period from its credits and have not returned.

    within: condition on `decisions`, which restricts those that are counted.
    """
    upto = calendar.upto(period)
    # Without correlate(None) the subquery would take `postings` from the enclosing query instead of its own.
    sequences = select(postings.c.sequence).where(upto).correlate(None)
    query = (
        select(entries.c.account, amount_sum)
        .select_from(
            decisions.join(postings, postings.c.sequence == decisions.c.sequence).join(
                entries, entries.c.sequence == decisions.c.sequence
            )
        )
        .where(
            decisions.c.dispute_id.is_not(None),
            true() if within is None else within,
            not_(upto),
            decisions.c.about_sequence.in_(sequences),
            is_owner(entries.c.account),
        )
        .group_by(entries.c.account)
        .having(amount_sum < 0)
    )
    return {account: -amount for account, amount in connection.execute(query)}


def by_kind(balances: dict[str, int]) -> dict[str, int]:
    """Return sums by kind of account, with all owners as "owners"; the sums add up to zero."""
    sums = Counter({"owners": 0})
    for account, amount in sorted(balances.items()):
        sums["owners" if account.startswith(OWNER_PREFIX) else account] += amount
    return dict(sums)


@dataclass(frozen=True, slots=True)
class Check:
    """One point of the checklist. detail: the finding, and what to do about it if it is not `ok`."""

    name: str
    ok: bool
    detail: str


class NotClosable(PreconditionFailed):
    """The period fails a point of the checklist. checks: all points, passed ones too."""

    def __init__(self, period: Period, checks: list[Check]) -> None:
        self.checks = checks
        failed = "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)
        super().__init__(f"period {period} cannot be closed: {failed}")


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed period with its signed checkpoint. checks: empty if it was closed before."""

    closing: Closing
    checkpoint: Signed
    checks: list[Check]


def close(
    book: Ledger,
    period: Period,
    terms: Terms,
    signer: Signer,
    rights: RightsAt | None,
    decided_at: datetime,
    carry_disputes: bool = False,
    confirmed_over: bool = False,
) -> Closed:
    """Close a period on `terms` and sign it; repeating the call with the same terms returns the same closing.

    rights: source of current rights, None if there is no catalogue. carry_disputes: close although disputes are open.
    confirmed_over: close although the ledger holds no later generation that shows that the period is over.

    Raises NotClosable, or Conflict if the period was closed on other terms; then nothing is posted.
    """
    with book.snapshot() as connection:
        earlier = closings(connection, period)
    if earlier:
        _check_terms(earlier[0], period, terms)
        return book.decide(lambda transaction: _signed(transaction.connection, period, signer, []))
    # Read before the lock is taken, because it takes minutes in a large ledger. Nothing of it becomes wrong by what
    # others post: rows that were hashed never change, rights are no facts of the ledger, and the others are completed.
    prepared = [_verified(book), _nothing_to_release(book, rights, decided_at)]
    read, searched = read_balances(book, period), search_disputes(book)

    def decide(transaction: LedgerTransaction) -> Closed:
        connection = transaction.connection
        if closed := closings(connection, period):
            _check_terms(closed[0], period, terms)
            return _signed(connection, period, signer, [])
        calendar = read_calendar(connection)
        checks = [_over(connection, period, decided_at, confirmed_over), _in_order(calendar, period)]
        # Disputed credits must not become payable: hold those that were posted since the last hold.
        hold_all(transaction, searched, decided_at, period)
        checks += [_balanced(connection), *prepared, _disputes(connection, carry_disputes)]
        if not all(check.ok for check in checks):
            raise NotClosable(period, checks)
        amounts = closed_amounts(
            read.now(connection, calendar, period), disputed_since(connection, calendar, period), terms
        )
        transaction.post([_closing(connection, period, terms, amounts, checks, decided_at)])
        return _signed(connection, period, signer, checks)

    return book.decide(decide)


def _balanced(connection: Connection) -> Check:
    totals = read_totals(connection)
    return Check("balanced", totals.reconciles, f"{totals.issued_micros:,} micro-credits were issued")


def _disputes(connection: Connection, carry: bool) -> Check:
    disputes = read_unsettled_disputes(connection)
    ids = ", ".join(dispute.dispute_id for dispute in disputes[:5])
    # A decided dispute that still holds credits was interrupted: completing it is not a matter of waiting.
    carried = carry and all(dispute.open for dispute in disputes)
    detail = f"{len(disputes)} not settled ({ids}): decide them, or carry them over" if disputes else "none is open"
    return Check("disputes", not disputes or carried, detail)


def closing_terms(connection: Connection, period: Period) -> Terms:
    """Return the terms on which a period was closed. Raises NotFound."""
    for closing in closings(connection, period):
        return Terms.from_dict(closing.decision.facts["terms"])
    raise NotFound(f"period {period} is not closed")


def closing_digits(connection: Connection, period: Period, currency: str, chosen: int | None = None) -> int:
    """Return the decimals of the currency's minor unit in which a period is closed. Raises InvalidInput.

    chosen: as for `minor_digits`. A period that was closed before keeps the decimals that were signed, whatever the
    table of currencies is now, so that repeating its closing gives the same answer.
    """
    for closing in closings(connection, period):
        signed = Terms.from_dict(closing.decision.facts["terms"])
        if signed.currency == currency and chosen in (None, signed.minor_digits):
            return signed.minor_digits
    return minor_digits(currency, chosen)


def _over(connection: Connection, period: Period, now: datetime, confirmed: bool) -> Check:
    """Return whether the period is over, by the clock of this machine and by the ledger's own times."""
    if now < period.end:
        return Check("over", False, f"it ends on {period.end.date()}")
    query = select(postings.c.posted_at).where(postings.c.kind == ATTRIBUTION)
    newest = connection.execute(query.order_by(postings.c.sequence.desc()).limit(1)).scalar()
    # A month that is closed too early by a wrong clock stays closed, and its later generations go to the next one.
    if (newest is None or newest < utc_text(period.end)) and not confirmed:
        posted = "nothing was posted yet" if newest is None else f"the newest generation was posted on {newest[:10]}"
        return Check("over", False, f"{posted}, before the end of {period}: check the clock, then use --confirm-over")
    return Check("over", True, f"ended {period.end.date()}")


def _in_order(calendar: Calendar, period: Period) -> Check:
    first, last = calendar.first_closed, calendar.last_closed
    if first is None or last is None or period == last.next():
        return Check("in order", True, "it is next")
    if period < first:
        return Check("in order", False, f"it is part of {first}, the first period that was closed")
    return Check("in order", False, f"close {last.next()} first")


def payable_lines(closing: Closing) -> list[tuple[str, int, int]]:
    """Return (account, micro-credits, minor units) for each account that a closed period made payable."""
    return [(account, balance, minor) for account, balance, minor in closing.decision.facts["payable"]]


def _closing(
    connection: Connection,
    period: Period,
    terms: Terms,
    amounts: dict[str, Any],
    checks: list[Check],
    decided_at: datetime,
) -> NewDecision:
    facts: dict[str, Any] = {
        **amounts,
        "closed_through": read_head(connection).sequence,
        "terms": terms.as_dict(),
        "checks": [check.name for check in checks],
        "carried_disputes": [dispute.dispute_id for dispute in read_unsettled_disputes(connection)],
    }
    decision = Decision(CLOSE, f"period {period} is over", facts, Links(period=str(period)))
    return NewDecision(decision_id(CLOSE, period), decided_at, decision)


def closed_amounts(balances: dict[str, int], disputed: dict[str, int], terms: Terms) -> dict[str, Any]:
    """Return the facts "balances" and "payable" of a closing. disputed: see `disputed_since`."""
    # A dispute may have taken credits of this period since it ended; those must not be paid as well.
    owners = {
        account: amount - disputed.get(account, 0)
        for account, amount in balances.items()
        if account.startswith(OWNER_PREFIX)
    }
    payable = terms.payable(owners)
    return {
        "balances": by_kind(balances),
        "payable": [[account, owners[account], minor] for account, minor in sorted(payable.items()) if minor],
    }


def _check_terms(closing: Closing, period: Period, terms: Terms) -> None:
    original = Terms.from_dict(closing.decision.facts["terms"])
    if original != terms:
        different = [name for name, value in terms.as_dict().items() if original.as_dict()[name] != value]
        raise Conflict(f"period {period} was closed on other terms ({', '.join(different)}), which cannot be changed")


def _signed(connection: Connection, period: Period, signer: Signer, checks: list[Check]) -> Closed:
    (closing,) = closings(connection, period)
    signed = checkpoint_of(closing.posting, str(period), signer)
    return Closed(closing, store_checkpoint(connection, str(period), closing.posting.sequence, signed), checks)


def _verified(book: Ledger) -> Check:
    verified = book.verify()
    return Check("verified", verified.ok, verified.text())


def _nothing_to_release(book: Ledger, rights: RightsAt | None, now: datetime) -> Check:
    if rights is None:
        return Check("released", True, "there is no catalogue to release by")
    for sequences in pages_to_release(book):
        with book.snapshot() as connection:
            due = due_releases(connection, sequences, rights, "checklist", now)
        if due:
            return Check("released", False, f"rights in generation {due[0].generation_id} are known: release them")
    return Check("released", True, "nothing in suspense or held has known rights")
