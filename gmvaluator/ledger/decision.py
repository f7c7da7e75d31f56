"""Decisions: postings that people cause, such as releases, disputes, corrections, payouts and closings.

A decision has an id, a reason, its own time, and evidence from which its entries follow. A decision that moves amounts
of an earlier posting is *about* that posting and takes its next *revision*, so that two decisions made from the same
state cannot both be posted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from gmvaluator.accounts import ISSUANCE
from gmvaluator.ids import GenerationId, generation_id
from gmvaluator.ledger.hash_chain import canonical_json
from gmvaluator.ledger.records import Encoded, Entry, HeaderFacts
from gmvaluator.text import written_text

DECIDER = "@ledger"
"""generator_identity of every decision; identities of generators may not begin with @."""

RELEASE = "release"
REVERSAL = "reversal"
REATTRIBUTION = "reattribution"
DISPUTE = "dispute"
HOLD = "hold"
SETTLEMENT = "settlement"
VERDICT = "verdict"
PAYOUT = "payout"
CLOSE = "close"
REFERENCE = "reference"

KINDS = (RELEASE, REVERSAL, REATTRIBUTION, DISPUTE, HOLD, SETTLEMENT, VERDICT, PAYOUT, CLOSE, REFERENCE)

DECISION_FORMAT = 1
MAX_REASON_CHARACTERS = 2_000


# Decisions are made under the lock of all writers (see `transaction`). The revision guards them a second time: it is
# unique for each posting in the database, so of two decisions that were made from the same amounts one is refused.
@dataclass(frozen=True, slots=True)
class Links:
    """References of a decision to a posting, a dispute and a period; None for each that it does not concern.

    revision: 1 for the first decision about a posting, then 2, …
    """

    about_sequence: int | None = None
    revision: int | None = None
    dispute_id: str | None = None
    period: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the values by column."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Decision:
    """The evidence of a decision. facts: plain JSON from which its entries follow (see `decision_entries`)."""

    kind: str
    reason: str
    facts: Mapping[str, Any]
    links: Links = Links()

    def to_json(self) -> bytes:
        """Return canonical JSON, the bytes that are stored and hashed."""
        value = {"format": DECISION_FORMAT, "kind": self.kind, "reason": self.reason}
        return canonical_json({**value, "facts": dict(self.facts), **self.links.as_dict()})

    @classmethod
    def from_json(cls, text: bytes) -> Decision:
        """Parse the result of `to_json`. Raises ValueError, KeyError or TypeError if `text` has another format."""
        value = json.loads(text)
        if value.pop("format") != DECISION_FORMAT:
            raise ValueError("a decision of an unknown format: upgrade gmvaluator")
        links = Links(*(value[name] for name in Links.__dataclass_fields__))
        return cls(value["kind"], value["reason"], value["facts"], links)


@dataclass(frozen=True)
class NewDecision(Encoded):
    """A decision to be posted, as `NewPosting` is for a generation. A `decision_id` can be used only once.

    decided_at: its own time, which assigns it to a period. described: fields of the posting's header, if it fills any.
    """

    decision_id: GenerationId
    decided_at: datetime
    decision: Decision
    entries: tuple[Entry, ...] = ()
    described: HeaderFacts | None = None

    @property
    def kind(self) -> str:
        return self.decision.kind

    @property
    def generator_identity(self) -> str:
        return DECIDER

    @property
    def generation_id(self) -> GenerationId:
        return self.decision_id

    @property
    def generated_at(self) -> datetime:
        return self.decided_at

    @property
    def key(self) -> tuple[str, str]:
        """(generator_identity, generation_id), unique in the ledger."""
        return DECIDER, self.decision_id

    @property
    def header_facts(self) -> HeaderFacts:
        """Fields of the posting's header. issued_micros: what the entries issue; negative if they take credits back."""
        described = self.described or HeaderFacts()
        return described._replace(
            issued_micros=sum(-entry.amount_micros for entry in self.entries if entry.account == ISSUANCE)
        )

    @cached_property
    def evidence_json(self) -> bytes:  # type: ignore[override]
        """The evidence as it is hashed."""
        return self.decision.to_json()


def decision_id(*parts: object) -> GenerationId:
    """Join parts to a decision's id, such as `release/17/1`. Raises InvalidInput if the result is no valid id."""
    return generation_id("/".join(str(part) for part in parts))


def checked_reason(text: str) -> str:
    """Return a reason of 1-2,000 characters, which may have several lines; see `written_text`. Raises InvalidInput."""
    return written_text("the reason", text, MAX_REASON_CHARACTERS, lines=True)
