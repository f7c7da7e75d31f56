"""The gRPC face: checks requests, admits them, and turns errors into statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Protocol

import grpc
import structlog

from attributor.disputes import DisputeDesk
from attributor.messages import attribution_message, image_request, posting_message, preview_request
from attributor.pipeline import Pipeline
from gmvaluator.errors import Failure, GmvaluatorError, InvalidInput, Overloaded, Unavailable, status_of
from gmvaluator.ids import generation_id
from gmvaluator.ledger.answers import BalancePage
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ports import OwnerNames
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceServicer
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceServicer

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
WATCH_PAGE = 200
WATCH_POLL_S = 0.25
PUSHBACK_MS = 250
LOCAL_IDENTITY = "local"
"""Generator identity of callers of an attributor that asks for no token."""

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger("attributor")


@asynccontextmanager
async def answered(context: Context, method: str, generation: str = "") -> AsyncIterator[None]:
    """The one place where an error becomes a status; what is not ours becomes INTERNAL, and is logged."""
    try:
        yield
    except Failure as error:
        _log.error("failed", method=method, generation_id=generation, error=str(error))
        await context.abort(grpc.StatusCode.INTERNAL, str(error))
    except GmvaluatorError as error:
        _log.info("refused", method=method, generation_id=generation, error=str(error))
        trailing = (("grpc-retry-pushback-ms", str(PUSHBACK_MS)),) if isinstance(error, Overloaded) else ()
        await context.abort(grpc.StatusCode[status_of(error)], str(error), trailing)
    except (asyncio.CancelledError, grpc.aio.AbortError):
        raise
    except Exception:  # noqa: BLE001 - the border: a caller gets INTERNAL, the log gets the rest
        _log.exception("broke", method=method, generation_id=generation)
        await context.abort(grpc.StatusCode.INTERNAL, "the attributor broke on this call; its log says more")


class RoyaltyReader(Protocol):
    """Reading side of the ledger; blocking but short."""

    def balances(self, after: str = "", limit: int = DEFAULT_PAGE) -> BalancePage: ...

    def postings_after(self, sequence: int, limit: int = WATCH_PAGE) -> list[StoredPosting]: ...


class Service:
    """What the servicers stand on: nothing before `open` and after `close`, and a bounded number of calls.

    Calls above `max_in_flight` are refused at once: refusing is cheaper than queueing.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._parts: tuple[Pipeline, RoyaltyReader, OwnerNames, DisputeDesk] | None = None
        self._why_not = "the attributor is starting: wait until its health says SERVING"

    def open(self, pipeline: Pipeline, ledger: RoyaltyReader, names: OwnerNames, desk: DisputeDesk) -> None:
        self._parts = (pipeline, ledger, names, desk)

    def close(self) -> None:
        """Refuse new calls; those in flight go on."""
        self._parts = None
        self._why_not = "the attributor is stopping: send the call again, with the same id, to another or later"

    @contextmanager
    def admit(self) -> Iterator[Pipeline]:
        """The pipeline, for one call. Raises Unavailable, or Overloaded if too many calls are in flight."""
        pipeline = self._open_parts()[0]
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(f"{self._max_in_flight} images are being valued: send this one again later")
        self.in_flight += 1
        self.idle.clear()
        try:
            yield pipeline
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()

    def royalties(self) -> tuple[RoyaltyReader, OwnerNames]:
        """Ledger and names, for reading. Raises Unavailable."""
        _, ledger, names, _ = self._open_parts()
        return ledger, names

    def disputes(self) -> DisputeDesk:
        """Where disputes are opened. Raises Unavailable."""
        return self._open_parts()[3]

    def _open_parts(self) -> tuple[Pipeline, RoyaltyReader, OwnerNames, DisputeDesk]:
        if self._parts is None:
            raise Unavailable(self._why_not)
        return self._parts


class AttributionServicer(AttributionServiceServicer):
    """AttributionService over the pipeline."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Attribute(
        self, request: attribution_v1.AttributeRequest, context: Context
    ) -> AsyncIterator[attribution_v1.AttributeResponse]:
        async with answered(context, "Attribute", request.generation_id):
            checked = image_request(request, LOCAL_IDENTITY)
            with self._service.admit() as pipeline:
                async with aclosing(pipeline.attribute(checked)) as stages:
                    async for stage in stages:
                        yield attribution_v1.AttributeResponse(attribution=attribution_message(stage))

    async def GetAttribution(
        self, request: attribution_v1.GetAttributionRequest, context: Context
    ) -> attribution_v1.GetAttributionResponse:
        async with answered(context, "GetAttribution", request.generation_id):
            with self._service.admit() as pipeline:
                found = await pipeline.find(LOCAL_IDENTITY, generation_id(request.generation_id))
            return attribution_v1.GetAttributionResponse(attribution=attribution_message(found))
        raise AssertionError("answered() aborts")

    async def Preview(
        self, request: attribution_v1.PreviewRequest, context: Context
    ) -> AsyncIterator[attribution_v1.PreviewResponse]:
        async with answered(context, "Preview"):
            checked = preview_request(request, LOCAL_IDENTITY)
            with self._service.admit() as pipeline:
                async with aclosing(pipeline.preview(checked)) as stages:
                    async for stage in stages:
                        yield attribution_v1.PreviewResponse(attribution=attribution_message(stage))


class RoyaltyServicer(RoyaltyServiceServicer):
    """RoyaltyService over the ledger; a watcher is served from the ledger itself, never from a side channel."""

    def __init__(self, service: Service, stopping: asyncio.Event) -> None:
        self._service = service
        self._stopping = stopping

    async def GetRoyalties(
        self, request: royalty_v1.GetRoyaltiesRequest, context: Context
    ) -> royalty_v1.GetRoyaltiesResponse:
        async with answered(context, "GetRoyalties"):
            size = request.page_size or DEFAULT_PAGE
            if not 1 <= size <= MAX_PAGE:
                raise InvalidInput(f"page_size {size} is refused: ask for 1-{MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
            return await asyncio.to_thread(self._page, request.page_token, size)
        raise AssertionError("answered() aborts")

    def _page(self, after: str, size: int) -> royalty_v1.GetRoyaltiesResponse:
        ledger, owner_names = self._service.royalties()
        page = ledger.balances(after, size)
        owners = [balance.owner_id for balance in page.balances if balance.owner_id is not None]
        names = owner_names.display_names(owners)
        royalties = [
            royalty_v1.Royalty(
                account=balance.account,
                display_name=names.get(balance.owner_id, "") if balance.owner_id else "",
                balance_micros=balance.balance_micros,
            )
            for balance in page.balances
        ]
        token = page.balances[-1].account if len(page.balances) == size else ""
        return royalty_v1.GetRoyaltiesResponse(royalties=royalties, next_page_token=token, sequence=page.sequence)

    async def WatchRoyalties(
        self, request: royalty_v1.WatchRoyaltiesRequest, context: Context
    ) -> AsyncIterator[royalty_v1.WatchRoyaltiesResponse]:
        async with answered(context, "WatchRoyalties"):
            ledger, _ = self._service.royalties()
            sequence = request.after_sequence
            if sequence < 0:
                raise InvalidInput(f"after_sequence {sequence} is refused: begin at 0")
            while not self._stopping.is_set():
                postings = await asyncio.to_thread(ledger.postings_after, sequence, WATCH_PAGE)
                for posting in postings:
                    yield posting_message(posting)
                    sequence = posting.sequence
                if not postings:
                    await self._pause()

    async def OpenDispute(
        self, request: royalty_v1.OpenDisputeRequest, context: Context
    ) -> royalty_v1.OpenDisputeResponse:
        async with answered(context, "OpenDispute", request.generation_id):
            with self._service.admit():
                return await self._service.disputes().open(request)
        raise AssertionError("answered() aborts")

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), WATCH_POLL_S)
        except TimeoutError:
            return
