"""Opening disputes over the wire: checked here, posted by the ledger's one writer, held as far as one call goes."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Protocol

from gmvaluator.errors import GenerationConflict, InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId, generation_id
from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.decisions.dispute_holds import holds
from gmvaluator.ledger.decisions.disputes import Dispute, Scope, dispute, opening
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ports import RightsReader
from gmvaluator.v1 import royalty_pb2 as royalty_v1

MAX_HOLDS = 500
"""Generations held by one call at most."""


class DecisionWriter(Protocol):
    """Writing side of the ledger."""

    async def post(self, posting: NewDecision) -> Posted | Replayed: ...


class DisputeDesk:
    """Opens disputes. Reading blocks and runs in threads; writing goes through the ledger's writer.

    Of two calls at once the second sees what the first one held. That does not cover other attributors on the same
    ledger (PostgreSQL): a hold that another was quicker with is worked out anew, once; and two that take from one
    account at the same moment, for different generations, may take more than it has.
    """

    def __init__(self, ledger: LedgerReader, rights: RightsReader, writer: DecisionWriter) -> None:
        self._ledger = ledger
        self._rights = rights
        self._writer = writer
        self._holding = asyncio.Lock()

    async def open(self, request: royalty_v1.OpenDisputeRequest) -> royalty_v1.OpenDisputeResponse:
        """Open, or find, the dispute and hold what it is about.

        Raises InvalidInput, naming the field; NotFound; GenerationConflict if the id is another dispute's.
        """
        now = datetime.now(UTC)
        scope = await asyncio.to_thread(self._scope, request)
        opened = await self._writer.post(opening(request.dispute_id, scope, request.reason, now))
        # A caller that goes away now must not let the next one in while holds are under way.
        more_to_hold = await asyncio.shield(self._hold(request.dispute_id, now))
        found = await asyncio.to_thread(self._read, request.dispute_id)
        return royalty_v1.OpenDisputeResponse(
            dispute_id=found.dispute_id,
            status=_status(found),
            held_micros=found.held_micros,
            sequence=opened.posting.sequence,
            more_to_hold=more_to_hold,
        )

    async def _hold(self, dispute_id: str, now: datetime) -> bool:
        """Hold what is due; True if there is more of it than one call holds."""
        async with self._holding:
            try:
                return await self._hold_once(dispute_id, now)
            except GenerationConflict:
                return await self._hold_once(dispute_id, now)

    async def _hold_once(self, dispute_id: str, now: datetime) -> bool:
        due = await asyncio.to_thread(self._due, dispute_id, now)
        posts = (self._writer.post(one) for one in due[:MAX_HOLDS])
        for done in await asyncio.gather(*posts, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done
        return len(due) > MAX_HOLDS

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
        claimant = _uuid(request.claimant.removeprefix("owner:"), "claimant")
        return Scope(
            None if work is None else TrainingImageId(work),
            sequence,
            None if claimant is None else OwnerId(claimant),
        )

    def _due(self, dispute_id: str, now: datetime) -> list[NewDecision]:
        with self._ledger.snapshot() as connection:
            return holds(connection, dispute(connection, dispute_id), now, limit=MAX_HOLDS + 1)

    def _read(self, dispute_id: str) -> Dispute:
        with self._ledger.snapshot() as connection:
            return dispute(connection, dispute_id)


def _status(found: Dispute) -> royalty_v1.DisputeStatus.ValueType:
    if found.open:
        return royalty_v1.DISPUTE_STATUS_OPEN
    return royalty_v1.DISPUTE_STATUS_UPHELD if found.award else royalty_v1.DISPUTE_STATUS_REJECTED


def _uuid(text: str, field: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise InvalidInput(f"{field} {text[:60]!r} is refused: give a UUID") from None
