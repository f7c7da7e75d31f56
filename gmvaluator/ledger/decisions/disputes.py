"""Disputes: scope and award, the decisions that open and decide one, and reading them from the ledger."""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from gmvaluator.ledger.schema import decisions, entries, evidence, postings
from gmvaluator.storage.schema import utc_text
from gmvaluator.valuation.weights import MILLION

MAX_DISPUTE_ID_CHARACTERS = 100

MAX_AWARDS = 100
"""Maximum number of owners among whom one dispute's credits can be divided."""

_POSTINGS_PER_QUERY = 500
# A slash separates the parts of a decision's id, of which a dispute's id is one.
_DISPUTE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]*")


@dataclass(frozen=True, slots=True)
class Scope:
    """The credits that a dispute is about: of one work, of one generation's posting, or of that work in that posting.

    claimant: the owner who claims them, whose own credits are not held; None if no claimant is named. works: the only
    works of the posting that are disputed; empty for all.

    Raises InvalidInput if neither a work nor a posting is given.
    """

    training_image_id: TrainingImageId | None
    generation_sequence: int | None
    claimant: OwnerId | None = None
    works: tuple[TrainingImageId, ...] = ()

    def __post_init__(self) -> None:
        if self.training_image_id is None and self.generation_sequence is None:
            raise InvalidInput("a dispute needs a training image or a generation: name one of them, or both")

    def covers(self, work: TrainingImageId | None) -> bool:
        """Return True if credits of this work are disputed, in a posting that is."""
        if self.training_image_id is not None:
            return work == self.training_image_id
        return not self.works or work in self.works

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict, as stored in the evidence of a decision."""
        return {
            "training_image_id": None if self.training_image_id is None else str(self.training_image_id),
            "generation_sequence": self.generation_sequence,
            "claimant": None if self.claimant is None else owner_account(self.claimant),
            # Absent where it is empty: the evidence of disputes that were opened before this field has no such key.
            **({"works": [str(work) for work in self.works]} if self.works else {}),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Scope:
        """Parse the result of `as_dict`."""
        work, claimant = value["training_image_id"], value["claimant"]
        return cls(
            None if work is None else TrainingImageId(uuid.UUID(work)),
            value["generation_sequence"],
            None if claimant is None else OwnerId(uuid.UUID(claimant.partition(":")[2])),
            tuple(TrainingImageId(uuid.UUID(text)) for text in value.get("works", ())),
        )


Award = tuple[tuple[str, int], ...]
"""Accounts with the part of the held credits that each receives, in ppm; the parts sum to 1,000,000."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute with its status and what it holds, in micro-credits.

    decided_at, verdict_reason and award are None while it is open; award is also None if it was rejected.
    """

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
        """Whether the dispute is not decided yet."""
        return self.decided_at is None

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
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


def opening_decision(dispute_id: str, scope: Scope, reason: str, decided_at: datetime) -> NewDecision:
    """Return the posting that opens a dispute, which moves no credits.

    dispute_id: chosen by the client, and used for one dispute only. Raises InvalidInput.
    """
    links = Links(dispute_id=checked_dispute_id(dispute_id))
    decision = Decision(DISPUTE, checked_reason(reason), scope.as_dict(), links)
    return NewDecision(decision_id(DISPUTE, dispute_id), decided_at, decision)


def verdict_decision(dispute_id: str, award: Award | None, reason: str, decided_at: datetime) -> NewDecision:
    """Return the posting that decides a dispute; the settlements that follow it move the held credits."""
    facts = {"award": None if award is None else [list(part) for part in award]}
    decision = Decision(VERDICT, checked_reason(reason), facts, Links(dispute_id=dispute_id))
    return NewDecision(decision_id(VERDICT, dispute_id), decided_at, decision)


def checked_dispute_id(text: str) -> str:
    """Return a dispute's id: 1-100 characters of A-Z a-z 0-9 . _ : @ + = -, the first alphanumeric.

    Raises InvalidInput.
    """
    if len(text) > MAX_DISPUTE_ID_CHARACTERS or not _DISPUTE_ID.fullmatch(text):
        raise InvalidInput(
            f"dispute id {text[:60]!r} is refused: use 1-{MAX_DISPUTE_ID_CHARACTERS} characters of "
            "A-Z a-z 0-9 . _ : @ + = - and begin with a letter or digit"
        )
    return text


def checked_award(parts: Sequence[tuple[OwnerId, int]]) -> Award:
    """Return an award by account, sorted, from (owner, ppm).

    Raises InvalidInput unless the parts are of different owners, MAX_AWARDS at most, and sum to 1,000,000 ppm.
    """
    by_account = {owner_account(owner_id): share for owner_id, share in parts}
    complete = all(1 <= share <= MILLION for share in by_account.values()) and sum(by_account.values()) == MILLION
    if len(by_account) != len(parts) or len(parts) > MAX_AWARDS or not complete:
        raise InvalidInput(f"an award names each owner once, with parts that sum to {MILLION:,} ppm")
    return tuple(sorted(by_account.items()))


def read_disputes(connection: Connection, dispute_id: str | None = None) -> list[Dispute]:
    """Return all disputes, or only the one with that id, in the order in which they were opened."""
    openings = _postings_of_kind(connection, DISPUTE, dispute_id)
    verdicts = {_dispute_id_of(posting): posting for posting in _postings_of_kind(connection, VERDICT, dispute_id)}
    held = _held_by_dispute(connection)
    return [_dispute(posting, verdicts.get(_dispute_id_of(posting)), held) for posting in openings]


def read_dispute(connection: Connection, dispute_id: str) -> Dispute:
    """Return one dispute. Raises NotFound."""
    matches = read_disputes(connection, dispute_id)
    if not matches:
        raise NotFound(f"there is no dispute {dispute_id[:100]!r}: see `gmvaluator ledger dispute list`")
    return matches[0]


def count_openings(connection: Connection, claimant: OwnerId, since: datetime) -> int:
    """Return how many disputes in this owner's name were opened at `since` or later."""
    query = (
        select(evidence.c.body)
        .join(decisions, decisions.c.sequence == evidence.c.sequence)
        .join(postings, postings.c.sequence == evidence.c.sequence)
        .where(decisions.c.kind == DISPUTE, postings.c.generated_at >= utc_text(since))
    )
    bodies = connection.execute(query).scalars()
    opened = (Scope.from_dict(Decision.from_json(zlib.decompress(body)).facts) for body in bodies)
    return sum(scope.claimant == claimant for scope in opened)


def read_unsettled_disputes(connection: Connection) -> list[Dispute]:
    """Return the disputes that are not decided yet, or are decided but still hold credits."""
    return [dispute for dispute in read_disputes(connection) if dispute.open or dispute.held_micros]


def _postings_of_kind(connection: Connection, kind: str, dispute_id: str | None) -> list[StoredPosting]:
    sequences = select(decisions.c.sequence).where(decisions.c.kind == kind)
    if dispute_id is not None:
        sequences = sequences.where(decisions.c.dispute_id == dispute_id)
    matching = list(connection.execute(sequences.order_by(decisions.c.sequence)).scalars())
    loaded: list[StoredPosting] = []
    for start in range(0, len(matching), _POSTINGS_PER_QUERY):
        within = postings.c.sequence.in_(matching[start : start + _POSTINGS_PER_QUERY])
        loaded.extend(load_postings(connection, postings_where(within).order_by(postings.c.sequence)))
    return loaded


def _held_by_dispute(connection: Connection) -> dict[str, int]:
    """Return the micro-credits that each dispute holds."""
    query = (
        select(decisions.c.dispute_id, amount_sum)
        .select_from(decisions.join(entries, decisions.c.sequence == entries.c.sequence))
        .where(decisions.c.dispute_id.is_not(None), entries.c.account == HELD)
        .group_by(decisions.c.dispute_id)
    )
    return dict(connection.execute(query).all())


def _dispute(opening: StoredPosting, verdict: StoredPosting | None, held: dict[str, int]) -> Dispute:
    opened = _decision(opening)
    dispute_id = opened.links.dispute_id or ""
    dispute = Dispute(
        dispute_id,
        opening.header.generated_at,
        opened.reason,
        Scope.from_dict(opened.facts),
        held.get(dispute_id, 0),
    )
    if verdict is None:
        return dispute
    decided = _decision(verdict)
    award = decided.facts["award"]
    return replace(
        dispute,
        decided_at=verdict.header.generated_at,
        verdict_reason=decided.reason,
        award=None if award is None else tuple((account, share) for account, share in award),
    )


def _dispute_id_of(posting: StoredPosting) -> str | None:
    return _decision(posting).links.dispute_id


def _decision(posting: StoredPosting) -> Decision:
    return Decision.from_json(posting.evidence_json)
