"""Opening of disputes: the request is checked, the opening is posted, and the disputed credits are held.

All postings go through the ledger's one writer. One call holds `MAX_HOLDS` generations at most.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Protocol

from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.errors import GenerationConflict, InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId, generation_id
from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.decisions.dispute_holds import due_holds
from gmvaluator.ledger.decisions.disputes import Dispute, Scope, opening_decision, read_dispute
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ports import RightsReader
from gmvaluator.v1 import royalty_pb2 as royalty_v1

MAX_HOLDS = 500
"""Maximum number of generations whose credits one call holds."""


class DecisionWriter(Protocol):
    """Writing side of the ledger."""

    async def post(self, posting: NewDecision) -> Posted | Replayed: ...


class DisputeService:
    """The service that opens disputes. Reading blocks and runs in threads; writing goes through the ledger's writer.

    Calls hold credits one after another, so that each sees the holds of the one before. This does not cover other
    attributors on the same ledger (PostgreSQL): a hold that another attributor posted first is computed again, once;
    and two holds that debit one account at the same moment, for different generations, may overdraw it.
    """

    def __init__(
        self, ledger: LedgerReader, rights: RightsReader, writer: DecisionWriter, max_holds: int = MAX_HOLDS
    ) -> None:
        """max_holds: generations whose credits one call holds at most."""
        self._ledger = ledger
        self._rights = rights
        self._writer = writer
        self._max_holds = max_holds
        # Two calls that computed their holds from the same balances would hold the same credits twice.
        self._holding = asyncio.Lock()

    async def open(self, request: royalty_v1.OpenDisputeRequest) -> royalty_v1.OpenDisputeResponse:
        """Open the dispute, unless it is open already, and hold the disputed credits.

        Raises InvalidInput, naming the field; NotFound; GenerationConflict if the id is another dispute's.
        """
        now = datetime.now(UTC)
        scope = await asyncio.to_thread(self._scope, request)
        opened = await self._writer.post(opening_decision(request.dispute_id, scope, request.reason, now))
        # A caller that cancels now must not release the lock while its holds are being posted.
        more_to_hold = await asyncio.shield(self._hold(request.dispute_id, now))
        current = await asyncio.to_thread(self._read, request.dispute_id)
        return royalty_v1.OpenDisputeResponse(
            dispute_id=current.dispute_id,
            status=_status(current),
            held_micros=current.held_micros,
            sequence=opened.posting.sequence,
            more_to_hold=more_to_hold,
        )

    async def _hold(self, dispute_id: str, now: datetime) -> bool:
        """Post the holds that are due; return True if more are due than one call posts."""
        async with self._holding:
            try:
                return await self._hold_once(dispute_id, now)
            except GenerationConflict:
                # Another attributor posted one of these holds first: with it in the ledger the rest is computed again.
                return await self._hold_once(dispute_id, now)

    async def _hold_once(self, dispute_id: str, now: datetime) -> bool:
        due = await asyncio.to_thread(self._due, dispute_id, now)
        posts = (self._writer.post(hold) for hold in due[: self._max_holds])
        # Every post ends before an error is raised: none goes on after the lock is released.
        for outcome in await asyncio.gather(*posts, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return len(due) > self._max_holds

    def _scope(self, request: royalty_v1.OpenDisputeRequest) -> Scope:
        work = _uuid(request.training_image_id, "training_image_id")
        if (
            work is not None
            and not self._rights.works([TrainingImageId(work)], datetime.now(UTC))[TrainingImageId(work)].key
        ):
            raise NotFound(f"there is no training image {work}")
        sequence = None
        if request.generation_id:
            sequence = self._ledger.posting_of_generation(generation_id(request.generation_id)).sequence
        claimant = _uuid(request.claimant.removeprefix(OWNER_PREFIX), "claimant")
        return Scope(
            None if work is None else TrainingImageId(work),
            sequence,
            None if claimant is None else OwnerId(claimant),
        )

    def _due(self, dispute_id: str, now: datetime) -> list[NewDecision]:
        with self._ledger.snapshot() as connection:
            return due_holds(connection, read_dispute(connection, dispute_id), now, limit=self._max_holds + 1)

    def _read(self, dispute_id: str) -> Dispute:
        with self._ledger.snapshot() as connection:
            return read_dispute(connection, dispute_id)


def _status(record: Dispute) -> royalty_v1.DisputeStatus.ValueType:
    if record.open:
        return royalty_v1.DISPUTE_STATUS_OPEN
    return royalty_v1.DISPUTE_STATUS_UPHELD if record.award else royalty_v1.DISPUTE_STATUS_REJECTED


def _uuid(text: str, field: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise InvalidInput(f"{field} {text[:60]!r} is refused: give a UUID") from None
