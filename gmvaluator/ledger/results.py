"""What the ledger answers: the outcome of posting, balances, totals and findings of a check."""

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
    """The same posting was made before; this is the stored one, and nothing was written."""

    posting: StoredPosting


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was posted, because of `error`; the rest of the batch is not affected."""

    error: GmvaluatorError


Outcome = Posted | Replayed | Refused


@dataclass(frozen=True, slots=True)
class Head:
    """Newest posting of the chain; sequence 0 and 64 zeros before the first. Keep it, and a cut tail shows."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class Totals:
    """All balances by kind of account. `reconciles`: what headers say was issued is what the accounts hold."""

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
    """Credits minus debits of one account."""

    account: str
    balance_micros: int

    @property
    def owner_id(self) -> OwnerId | None:
        """None for an account that belongs to no owner."""
        return owner_of(self.account)


@dataclass(frozen=True, slots=True)
class BalancePage:
    """Balances by account name ascending, all as of posting `sequence`."""

    balances: tuple[Balance, ...]
    sequence: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Credits recomputed from a posting's evidence. `equal`: the posting's entries say the same, exactly."""

    entries: tuple[Entry, ...]
    equal: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `sequence` and, where it can be told, `line` name the row; `what` says what is wrong."""

    sequence: int
    line: int | None
    what: str

    def text(self) -> str:
        """For people: "posting 7, line 3: entry was changed: ..."."""
        line = "" if self.line is None else f", line {self.line}"
        return f"posting {self.sequence}{line}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of checking every row. `first` is the finding with the lowest sequence; None if all is well."""

    postings: int
    entries: int
    head: Head
    first: Problem | None

    @property
    def ok(self) -> bool:
        """True if nothing was changed, removed, inserted or re-ordered."""
        return self.first is None

    def text(self) -> str:
        """One line for people."""
        if self.first is not None:
            return self.first.text()
        return (
            f"{self.postings:,} postings with {self.entries:,} entries are whole, in order and balanced; "
            f"head {self.head.sequence}:{self.head.hash}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "ok": self.ok,
            "postings": self.postings,
            "entries": self.entries,
            "head": asdict(self.head),
            "problem": None if self.first is None else asdict(self.first),
        }
