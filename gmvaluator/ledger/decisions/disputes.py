"""What a dispute is about, who is awarded what, and both as evidence has them.

Reading disputes: which there are, how they stand and what they hold.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from gmvaluator.accounts import HELD, owner_account
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ledger.decision import DISPUTE, VERDICT, Decision, Links, NewDecision, checked_reason, decision_id
from gmvaluator.ledger.queries import amount_sum
from gmvaluator.ledger.reader import load_postings, postings_where
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.schema import decisions, entries, postings
from gmvaluator.valuation.weights import MILLION

MAX_DISPUTE_ID_CHARACTERS = 100
MAX_AWARDS = 100
_DISPUTE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]*")


@dataclass(frozen=True, slots=True)
class Scope:
    """Credits that a dispute is about: those of one work, of one generation's posting, or of one within the other.

    claimant: the owner who says that they are theirs, whose own credits are not held; None if nobody is named.
    """

    training_image_id: TrainingImageId | None
    generation_sequence: int | None
    claimant: OwnerId | None = None

    def __post_init__(self) -> None:
        if self.training_image_id is None and self.generation_sequence is None:
            raise InvalidInput("a dispute needs a training image or a generation: name one of them, or both")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for evidence."""
        return {
            "training_image_id": None if self.training_image_id is None else str(self.training_image_id),
            "generation_sequence": self.generation_sequence,
            "claimant": None if self.claimant is None else owner_account(self.claimant),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Scope:
        """Inverse of `as_dict`."""
        work, claimant = value["training_image_id"], value["claimant"]
        return cls(
            None if work is None else TrainingImageId(uuid.UUID(work)),
            value["generation_sequence"],
            None if claimant is None else OwnerId(uuid.UUID(claimant.partition(":")[2])),
        )


Award = tuple[tuple[str, int], ...]
"""Accounts and the parts, in ppm, of what is held that each is given; they sum to 1,000,000."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute as it stands. decided_at and award: None while it is open; award is None too if it was rejected."""

    dispute_id: str
    opened_at: str
    reason: str
    scope: Scope
    held_micros: int
    decided_at: str | None = None
    verdict_reason: str | None = None
    award: Award | None = None

    @property
    def open(self) -> bool:
        """True until it is decided."""
        return self.decided_at is None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "dispute_id": self.dispute_id,
            "status": "open" if self.open else "upheld" if self.award else "rejected",
            "opened_at": self.opened_at,
            "reason": self.reason,
            **self.scope.as_dict(),
            "held_micros": self.held_micros,
            "decided_at": self.decided_at,
            "verdict_reason": self.verdict_reason,
            "award": None if self.award is None else [list(part) for part in self.award],
        }


def opening(dispute_id: str, scope: Scope, reason: str, decided_at: datetime) -> NewDecision:
    """The posting that opens a dispute; it moves nothing. Its id is the client's, used once for one dispute."""
    decision = Decision(
        DISPUTE, checked_reason(reason), scope.as_dict(), Links(dispute_id=checked_dispute_id(dispute_id))
    )
    return NewDecision(decision_id(DISPUTE, dispute_id), decided_at, decision)


def verdict(dispute_id: str, award: Award | None, reason: str, decided_at: datetime) -> NewDecision:
    """The posting that decides a dispute; the settlements that follow move what it holds."""
    facts = {"award": None if award is None else [list(part) for part in award]}
    decision = Decision(VERDICT, checked_reason(reason), facts, Links(dispute_id=dispute_id))
    return NewDecision(decision_id(VERDICT, dispute_id), decided_at, decision)


def checked_dispute_id(text: str) -> str:
    """A dispute's id: 1-100 characters of A-Z a-z 0-9 . _ : @ + = -, the first alphanumeric. Raises InvalidInput."""
    if len(text) > MAX_DISPUTE_ID_CHARACTERS or not _DISPUTE_ID.fullmatch(text):
        raise InvalidInput(
            f"dispute id {text[:60]!r} is refused: use 1-{MAX_DISPUTE_ID_CHARACTERS} characters of "
            "A-Z a-z 0-9 . _ : @ + = - and begin with a letter or digit"
        )
    return text


def checked_award(parts: Sequence[tuple[OwnerId, int]]) -> Award:
    """An award by account. Raises InvalidInput unless the parts are of different owners and sum to 1,000,000 ppm."""
    by_account = {owner_account(owner_id): share for owner_id, share in parts}
    right = all(1 <= share <= MILLION for share in by_account.values()) and sum(by_account.values()) == MILLION
    if len(by_account) != len(parts) or len(parts) > MAX_AWARDS or not right:
        raise InvalidInput(f"an award names each owner once, with parts that sum to {MILLION:,} ppm")
    return tuple(sorted(by_account.items()))


def disputes(connection: Connection, dispute_id: str | None = None) -> list[Dispute]:
    """All disputes, or the one of that id, in the order in which they were opened."""
    opened = _of_kind(connection, DISPUTE, dispute_id)
    verdicts = {_decision(one).links.dispute_id: one for one in _of_kind(connection, VERDICT, dispute_id)}
    held = _held(connection)
    return [_dispute(one, verdicts.get(_decision(one).links.dispute_id), held) for one in opened]


def dispute(connection: Connection, dispute_id: str) -> Dispute:
    """One dispute. Raises NotFound."""
    found = disputes(connection, dispute_id)
    if not found:
        raise NotFound(f"there is no dispute {dispute_id[:100]!r}: see `gmvaluator ledger dispute list`")
    return found[0]


def open_disputes(connection: Connection) -> list[Dispute]:
    """Those not decided yet, and those decided whose credits are still held."""
    return [one for one in disputes(connection) if one.open or one.held_micros]


def _of_kind(connection: Connection, kind: str, dispute_id: str | None) -> list[StoredPosting]:
    sequences = select(decisions.c.sequence).where(decisions.c.kind == kind)
    if dispute_id is not None:
        sequences = sequences.where(decisions.c.dispute_id == dispute_id)
    found = list(connection.execute(sequences.order_by(decisions.c.sequence)).scalars())
    loaded: list[StoredPosting] = []
    for start in range(0, len(found), 500):
        within = postings.c.sequence.in_(found[start : start + 500])
        loaded.extend(load_postings(connection, postings_where(within).order_by(postings.c.sequence)))
    return loaded


def _held(connection: Connection) -> dict[str, int]:
    query = (
        select(decisions.c.dispute_id, amount_sum)
        .select_from(decisions.join(entries, decisions.c.sequence == entries.c.sequence))
        .where(decisions.c.dispute_id.is_not(None), entries.c.account == HELD)
        .group_by(decisions.c.dispute_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _dispute(opened: StoredPosting, verdict: StoredPosting | None, held: dict[str, int]) -> Dispute:
    decision = _decision(opened)
    dispute_id = decision.links.dispute_id or ""
    found = Dispute(
        dispute_id,
        opened.header.generated_at,
        decision.reason,
        Scope.from_dict(decision.facts),
        held.get(dispute_id, 0),
    )
    if verdict is None:
        return found
    decided = _decision(verdict)
    award = decided.facts["award"]
    return Dispute(
        found.dispute_id,
        found.opened_at,
        found.reason,
        found.scope,
        found.held_micros,
        verdict.header.generated_at,
        decided.reason,
        None if award is None else tuple((account, share) for account, share in award),
    )


def _decision(posting: StoredPosting) -> Decision:
    return Decision.from_json(posting.evidence_json)
