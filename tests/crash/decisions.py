"""Random histories of concurrent decisions: what several people report is compared with what the ledger holds.

The oracle reads the postings in their order and none of the product's queries: it keeps its own balances, assigns each
posting to a period, and knows what each closing may make payable and each payout may pay.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.auth.signing import Signer
from gmvaluator.errors import GmvaluatorError, LedgerFailed
from gmvaluator.ledger.calendar import Period, read_calendar
from gmvaluator.ledger.decision import CLOSE, PAYOUT, Decision
from gmvaluator.ledger.decisions.dispute_holds import decide_dispute, hold, open_dispute
from gmvaluator.ledger.decisions.disputes import Scope, checked_award, read_disputes
from gmvaluator.ledger.decisions.release import release_all
from gmvaluator.ledger.decisions.reversal import reattribute, reverse
from gmvaluator.ledger.payouts.audit import verify_with_payments
from gmvaluator.ledger.payouts.closing import close
from gmvaluator.ledger.payouts.payouts import pay
from gmvaluator.ledger.payouts.references import add_reference
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.records import ATTRIBUTION, StoredPosting
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.ledger.verification import replay
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_owner, sample_work
from gmvaluator.valuation.policy import load_policy
from tests.support.finance import KnownRights, generation

NOW = datetime(2026, 6, 10, tzinfo=UTC)
MONTHS = [Period(2026, month) for month in (1, 2, 3, 4)]
TERMS = Terms("EUR", 2, 10_000_000, None, 0)

_WORKS = range(1, 7)
_OWNERS = {number: sample_owner(1 + number % 3) for number in _WORKS}
_RIGHTS_BEFORE = KnownRights({number: owner for number, owner in _OWNERS.items() if number > 2})
_RIGHTS_NOW = KnownRights(_OWNERS)
_CALIBRATED = load_policy("calibrated@2")


@dataclass
class Person:
    """Somebody who makes random decisions. paid, closed: what was reported as done by this person's commands."""

    book: Ledger
    keys: Path
    name: str
    chance: random.Random
    paid: list[tuple[str, str]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def work(self, commands: int) -> None:
        """Give random commands; refusals are part of the work."""
        kinds = [self._attribute] * 4 + [self._dispute, self._hold, self._decide, self._release, self._correct]
        kinds += [self._close] * 2 + [self._pay] * 2 + [self._reference]
        for number in range(commands):
            try:
                self.chance.choice(kinds)(number)
            except LedgerFailed as failure:
                self.failures.append(f"{self.name}: {failure}")
                return
            except GmvaluatorError:
                continue

    def _attribute(self, number: int) -> None:
        month, works = self.chance.choice(MONTHS), self.chance.sample(list(_WORKS), self.chance.randint(1, 3))
        at = datetime(month.year, month.month, self.chance.randint(1, 28), tzinfo=UTC)
        self.book.post([generation(f"{self.name}-{number}", works, at, _RIGHTS_BEFORE)])

    def _dispute(self, number: int) -> None:
        claimant = sample_owner(1) if self.chance.random() < 0.3 else None
        scope = Scope(sample_work(self.chance.choice(_WORKS)), None, claimant)
        open_dispute(self.book, f"{self.name}-{number}", scope, "mine", NOW)

    def _hold(self, _: int) -> None:
        hold(self.book, self._some_dispute(), NOW)

    def _decide(self, _: int) -> None:
        award = checked_award([(sample_owner(2), 1_000_000)]) if self.chance.random() < 0.5 else None
        decide_dispute(self.book, self._some_dispute(), award, "decided", NOW)

    def _some_dispute(self) -> str:
        with self.book.snapshot() as connection:
            return self.chance.choice([dispute.dispute_id for dispute in read_disputes(connection)] or ["none"])

    def _release(self, _: int) -> None:
        list(release_all(self.book, _RIGHTS_NOW, "known now", NOW))

    def _correct(self, _: int) -> None:
        page = self.book.postings_after(self.chance.randrange(1 + self.book.head().sequence), 1)
        for posting in page:
            if self.chance.random() < 0.5:
                reverse(self.book, posting, "wrong", NOW)
            else:
                reattribute(self.book, posting, _CALIBRATED, {}, "agreed", NOW)

    def _last_closed(self) -> Period | None:
        with self.book.snapshot() as connection:
            return read_calendar(connection).last_closed

    def _close(self, _: int) -> None:
        last = self._last_closed()
        period = self.chance.choice(MONTHS[:2]) if last is None else last.next()
        if period > MONTHS[-1]:
            return
        signer = Signer(self.keys)
        if close(self.book, period, TERMS, signer, None, NOW, carry_disputes=True, confirmed_over=True).checks:
            self.closed.append(str(period))

    def _pay(self, _: int) -> None:
        last = self._last_closed()
        if last is not None:
            payouts = pay(self.book, last, "SEPA", NOW)
            self.paid += [(str(last), payout.account) for payout in payouts if payout.status == "posted"]

    def _reference(self, number: int) -> None:
        last = self._last_closed()
        if last is not None:
            add_reference(self.book, last, f"batch {number}", NOW)


@dataclass
class Oracle:
    """The plainest ledger: what each account has, by the period that each posting belongs to."""

    balances: Counter[str] = field(default_factory=Counter)
    by_period: dict[Period, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    period_of: dict[int, Period] = field(default_factory=dict)
    disputed: list[tuple[int, int, Counter[str]]] = field(default_factory=list)
    closed: list[Period] = field(default_factory=list)
    payable: dict[tuple[str, str], int] = field(default_factory=dict)
    paid: Counter[tuple[str, str]] = field(default_factory=Counter)

    def read(self, posting: StoredPosting) -> Iterator[str]:
        """Add a posting, and yield what is wrong with it."""
        decision = None if posting.header.kind == ATTRIBUTION else Decision.from_json(posting.evidence_json)
        if decision is not None and decision.kind == CLOSE:
            yield from self._close(posting.sequence, decision)
        if decision is not None and decision.kind == PAYOUT:
            yield from self._pay(posting.sequence, decision)
        changes = Counter(posting.changes())
        own = Period.of(datetime.fromisoformat(posting.header.generated_at))
        period = max(own, self.closed[-1].next()) if self.closed else own
        self.period_of[posting.sequence] = period
        self.by_period[period].update(changes)
        self.balances.update(changes)
        if decision is not None and decision.links.dispute_id and decision.links.about_sequence:
            self.disputed.append((posting.sequence, decision.links.about_sequence, changes))

    def _close(self, sequence: int, decision: Decision) -> Iterator[str]:
        period = Period.parse(decision.links.period or "")
        if self.closed and period != self.closed[-1].next():
            yield f"{sequence}: {period} was closed after {self.closed[-1]}"
        owed: Counter[str] = Counter()
        for month, changes in self.by_period.items():
            if month <= period:
                owed.update(changes)
        taken: Counter[str] = Counter()
        for later, about, changes in self.disputed:
            if self.period_of[later] > period >= self.period_of[about]:
                taken.update(changes)
        owners = {account: amount + min(taken[account], 0) for account, amount in owed.items()
                  if account.startswith(OWNER_PREFIX)}  # fmt: skip
        for account, amount, minor in decision.facts["payable"]:
            if owners.get(account) != amount:
                yield f"{sequence}: {period} made {amount} payable to {account}, which had {owners.get(account)}"
            self.payable[str(period), account] = amount
            if minor * 1_000_000 > amount * 10 + 1_000_000:
                yield f"{sequence}: {minor} minor units for {amount}"
        self.closed.append(period)

    def _pay(self, sequence: int, decision: Decision) -> Iterator[str]:
        key = decision.links.period or "", decision.facts["account"]
        self.paid[key] += 1
        if not self.closed or key[0] != str(self.closed[-1]):
            yield f"{sequence}: {key} is not of the newest closed period"
        if decision.facts["amount_micros"] != self.payable.get(key):
            yield f"{sequence}: {key} was paid {decision.facts['amount_micros']}, not {self.payable.get(key)}"
        if self.balances[key[1]] < decision.facts["amount_micros"]:
            yield f"{sequence}: {key} was paid more than {self.balances[key[1]]}"


def check_decisions(location: DataLocation, seed: int, commands: int, people: int = 3) -> list[str]:
    """Let people decide at random on the ledger at `location`, and return what differs from the oracle.

    On PostgreSQL each has a connection of their own, as separate programs have; on SQLite they share one.
    """
    with ExitStack() as stack:
        books = [stack.enter_context(open_ledger(location, write=True))]
        while location.database_url and len(books) < people:
            books.append(stack.enter_context(open_ledger(location, write=True)))
        keys = location.folder / "keys"
        Signer(keys).sign(b"{}")
        team = [
            Person(books[number % len(books)], keys, f"p{number}", random.Random(f"{seed}/{number}"))
            for number in range(people)
        ]
        threads = [threading.Thread(target=person.work, args=(commands,)) for person in team]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [f"seed {seed}: {problem}" for problem in _problems(books[0], team)]


def _problems(book: Ledger, team: list[Person]) -> Iterator[str]:
    oracle = Oracle()
    for person in team:
        yield from person.failures
    for posting in book.every_posting():
        yield from oracle.read(posting)
        if not replay(posting).equal:
            yield f"{posting.sequence} does not follow from its evidence"
    reported = Counter(paid for person in team for paid in person.paid)
    if reported != oracle.paid:
        yield f"reported as paid: {reported}, posted: {oracle.paid}"
    closed = sorted(period for person in team for period in person.closed)
    if closed != [str(period) for period in oracle.closed]:
        yield f"reported as closed: {closed}, posted: {oracle.closed}"
    verification = verify_with_payments(book)
    if not (verification.ok and book.totals().reconciles):
        yield verification.text()
