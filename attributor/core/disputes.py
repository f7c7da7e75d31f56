"""Opening of disputes: the request is checked, the opening is posted, and the disputed credits are held.

All decisions go through the ledger's one writer. One call holds `MAX_HOLDS` generations at most.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Protocol

from attributor.core.clock import LedgerClock
from attributor.core.standing import MAX_PER_MONTH, ClaimsReader, Standing
from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId, generation_id
from gmvaluator.ledger.decisions.dispute_holds import Opened, decide_opening, search_holds
from gmvaluator.ledger.decisions.disputes import Dispute, Scope, checked_dispute_id
from gmvaluator.ledger.group_commit import Decide, Result
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.ports import RightsReader
from gmvaluator.v1 import royalty_pb2 as royalty_v1

MAX_HOLDS = 500
"""Maximum number of generations whose credits one call holds."""


class DisputedRights(RightsReader, ClaimsReader, Protocol):
    """Reading side of the catalogue."""


class DecisionWriter(Protocol):
    """Writing side of the ledger."""

    async def decide(self, decision: Decide[Result]) -> Result: ...


class DisputeService:
    """The service that opens disputes. Searching blocks and runs in threads; deciding goes through the ledger's writer.

    What a dispute holds is decided in the transaction that posts it, whatever calls, attributors and commands do at the
    same time.
    """

    def __init__(
        self,
        ledger: LedgerReader,
        rights: DisputedRights,
        writer: DecisionWriter,
        max_holds: int = MAX_HOLDS,
        clock: LedgerClock | None = None,
        max_per_month: int = MAX_PER_MONTH,
    ) -> None:
        """max_holds: generations whose credits one call holds at most. clock: by default, this machine's.

        max_per_month: disputes that one owner may open by itself in a calendar month.
        """
        self._ledger = ledger
        self._rights = rights
        self._writer = writer
        self._max_holds = max_holds
        self._standing = Standing(ledger, rights, max_per_month)
        self._clock = clock or LedgerClock(lambda: None)

    async def open(
        self, request: royalty_v1.OpenDisputeRequest, owner_id: OwnerId | None = None
    ) -> royalty_v1.OpenDisputeResponse:
        """Open the dispute, unless it is open already, and hold the disputed credits.

        owner_id: the owner who opens it in its own name, with the limits of `Standing`; None for people who act for
        others. Raises InvalidInput, naming the field; NotFound; GenerationConflict if the id is another dispute's;
        Unavailable; and for owners what `Standing.checked_scope` raises.
        """
        now = await asyncio.to_thread(self._clock.checked_now)
        scope = await asyncio.to_thread(self._scope, request)
        if owner_id is not None:
            scope = await asyncio.to_thread(
                self._standing.checked_scope, owner_id, checked_dispute_id(request.dispute_id), scope, now
            )
        concerned = await asyncio.to_thread(self._search, scope)

        def decide(transaction: LedgerTransaction) -> Opened:
            if owner_id is not None:
                self._standing.check_number(transaction.connection, owner_id, request.dispute_id, now)
            first = concerned[: self._max_holds]
            return decide_opening(transaction, request.dispute_id, scope, request.reason, now, first)

        opened = await self._writer.decide(decide)
        return royalty_v1.OpenDisputeResponse(
            dispute_id=opened.dispute.dispute_id,
            status=_status(opened.dispute),
            held_micros=opened.dispute.held_micros,
            sequence=opened.sequence,
            more_to_hold=opened.dispute.open and len(concerned) > self._max_holds,
        )

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

    def _search(self, scope: Scope) -> list[int]:
        with self._ledger.snapshot() as connection:
            return search_holds(connection, scope, self._max_holds + 1)


def _status(record: Dispute) -> royalty_v1.DisputeStatus.ValueType:
    if record.open:
        return royalty_v1.DISPUTE_STATUS_OPEN
    return royalty_v1.DISPUTE_STATUS_UPHELD if record.award else royalty_v1.DISPUTE_STATUS_REJECTED


def _uuid(text: str, field: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise InvalidInput(f"{field} {text[:60]!r} is refused: give a UUID") from None
