"""Results of the ledger: outcomes of posting, balances, totals and the findings of a check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from gmvaluator.accounts import owner_of
from gmvaluator.errors import GmvaluatorError
from gmvaluator.ids import OwnerId
from gmvaluator.ledger.records import Entry, StoredPosting


@dataclass(frozen=True, slots=True)
class Posted:
    """The posting was made now, and is durable."""

    posting: StoredPosting


@dataclass(frozen=True, slots=True)
class Replayed:
    """The same posting was made before. `posting` is the stored one; nothing was written."""

    posting: StoredPosting


@dataclass(frozen=True, slots=True)
class Refused:
    """The posting was not made, because of `error`; the rest of the batch is not affected."""

    error: GmvaluatorError


Outcome = Posted | Replayed | Refused


@dataclass(frozen=True, slots=True)
class Head:
    """The newest posting of the chain; sequence 0 and 64 zeros if there is none.

    A head that is kept outside the ledger reveals a ledger that was cut short after it.
    """

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class Totals:
    """The balances by kind of account. reconciles: the accounts hold what the headers say was issued."""

    issued_micros: int
    owners_micros: int
    unattributed_micros: int
    suspense_micros: int
    held_micros: int
    paid_micros: int
    reconciles: bool
    postings: int
    head: Head


class Balance(NamedTuple):
    """The balance of one account: credits minus debits, in micro-credits."""

    account: str
    balance_micros: int

    @property
    def owner_id(self) -> OwnerId | None:
        """The owner of the account; None if it belongs to no owner."""
        return owner_of(self.account)


@dataclass(frozen=True, slots=True)
class BalancePage:
    """Balances by account name ascending, all as of posting `sequence`."""

    balances: tuple[Balance, ...]
    sequence: int


@dataclass(frozen=True, slots=True)
class Replay:
    """The entries recomputed from a posting's evidence. equal: whether they are identical to the posted ones."""

    entries: tuple[Entry, ...]
    equal: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of a check. sequence and line: the row that is wrong; line is None if no entry can be named."""

    sequence: int
    line: int | None
    what: str

    def text(self) -> str:
        """Return the finding for people, such as "posting 7, line 3: entry was changed: ..."."""
        line = "" if self.line is None else f", line {self.line}"
        return f"posting {self.sequence}{line}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of checking every row. first: the finding with the lowest sequence; None if there is none."""

    postings: int
    entries: int
    head: Head
    first: Problem | None

    @property
    def ok(self) -> bool:
        """Whether nothing was changed, removed, inserted or re-ordered."""
        return self.first is None

    def text(self) -> str:
        """Return the result as one line for people."""
        if self.first is not None:
            return self.first.text()
        return (
            f"{self.postings:,} postings with {self.entries:,} entries are whole, in order and balanced; "
            f"head {self.head.sequence}:{self.head.hash}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a JSON-serializable dict."""
        return {
            "ok": self.ok,
            "postings": self.postings,
            "entries": self.entries,
            "head": asdict(self.head),
            "problem": None if self.first is None else asdict(self.first),
        }
