"""Standing in disputes: what an owner may dispute with a token of its own, how often, and what is held for it.

An owner may dispute works that it claims or claimed, and, within a generation, near-duplicates of such works and
whatever it was paid for. People who act for others (operator, finance) are not limited.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import Connection

from gmvaluator.accounts import owner_account
from gmvaluator.errors import Forbidden, Overloaded
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ledger.decisions.disputes import Scope, count_openings, read_disputes
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.records import Contribution, StoredPosting

MAX_PER_MONTH = 20
"""Disputes that one owner may open in a calendar month, UTC."""


class ClaimsReader(Protocol):
    """Read access to claims."""

    def claimed_works(self, owner_id: OwnerId, ids: Collection[TrainingImageId]) -> set[TrainingImageId]: ...


class Standing:
    """The rules for disputes that owners open by themselves. Methods block for milliseconds."""

    def __init__(self, ledger: LedgerReader, claims: ClaimsReader, max_per_month: int = MAX_PER_MONTH) -> None:
        self._ledger = ledger
        self._claims = claims
        self._max_per_month = max_per_month

    def checked_scope(self, owner_id: OwnerId, dispute_id: str, scope: Scope, now: datetime) -> Scope:
        """Return the scope of a dispute that an owner opens: limited to the works that concern it.

        Raises Forbidden if none does, and Overloaded if the owner has opened too many disputes this month. A dispute
        that is open already counts once, and keeps its scope.
        """
        with self._ledger.snapshot() as connection:
            known = read_disputes(connection, dispute_id)
        if known:
            # The works may have other claims by now; the rest of the request is compared when it is posted.
            return replace(scope, works=known[0].scope.works)
        limited = self._limited(owner_id, scope)
        with self._ledger.snapshot() as connection:
            self.check_number(connection, owner_id, dispute_id, now)
        return limited

    def check_number(self, connection: Connection, owner_id: OwnerId, dispute_id: str, now: datetime) -> None:
        """Raise Overloaded if the owner has opened too many disputes this month, and this one is not open already.

        Decided in the transaction that opens it: other attributors open disputes at the same time.
        """
        if read_disputes(connection, dispute_id):
            return
        month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        opened = count_openings(connection, owner_id, month)
        if opened >= self._max_per_month:
            raise Overloaded(
                f"{owner_account(owner_id)} has opened {opened} disputes this month, of {self._max_per_month} allowed: "
                "ask the operator to open this one",
                retry_after_ms=-1,
            )

    def _limited(self, owner_id: OwnerId, scope: Scope) -> Scope:
        if scope.generation_sequence is None:
            works = [] if scope.training_image_id is None else [scope.training_image_id]
            if not self._claims.claimed_works(owner_id, works):
                raise Forbidden(_no_standing(f"training image {scope.training_image_id}"))
            return scope
        (posting,) = self._ledger.postings_after(scope.generation_sequence - 1, 1)
        concerned = self._concerned(owner_id, posting)
        if not concerned:
            raise Forbidden(_no_standing(f"generation {posting.header.generation_id}"))
        if scope.training_image_id is None:
            return replace(scope, works=tuple(sorted(concerned, key=str)))
        if scope.training_image_id not in concerned:
            raise Forbidden(_no_standing(f"training image {scope.training_image_id} in this generation"))
        return scope

    def _concerned(self, owner_id: OwnerId, posting: StoredPosting) -> set[TrainingImageId]:
        """Return the works of a posting that the owner claims or was paid for, and those grouped with one of them."""
        contributions = posting.evidence.contributions
        candidates = {work for each in contributions for work in (each.training_image_id, each.group) if work}
        own = self._claims.claimed_works(owner_id, candidates)
        account = owner_account(owner_id)
        own |= {
            entry.training_image_id for entry in posting.entries if entry.account == account and entry.training_image_id
        }
        groups = {each.group for each in contributions if each.group and _concerns(each, own)}
        return {each.training_image_id for each in contributions if _concerns(each, own) or each.group in groups}


def _concerns(contribution: Contribution, own: set[TrainingImageId]) -> bool:
    return contribution.training_image_id in own or contribution.group in own


def _no_standing(what: str) -> str:
    return (
        f"{what} has no claim of yours: have your claim recorded (`gmvaluator rights import`), or ask the operator to "
        "open the dispute"
    )
