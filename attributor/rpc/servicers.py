"""The gRPC servicers: they check requests, admit them, and translate errors into statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import structlog

from attributor.core.attribution import ImageRequest
from attributor.ops.metrics import observe_refusal
from attributor.rpc.call_limits import DEFAULT_PAGE, WATCH_PAGE, Backends, CallGate
from attributor.rpc.image_stream import ImageStream
from attributor.rpc.interceptors import current_caller, trailing_metadata, write_with_timeout
from attributor.rpc.messages import attribution_message, image_request, posting_message, preview_request
from gmvaluator.auth.roles import LOCAL, Caller, Role
from gmvaluator.errors import Failure, Forbidden, GmvaluatorError, InvalidInput, status_of
from gmvaluator.ids import MAX_GENERATION_ID_CHARACTERS, generation_id
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceServicer
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceServicer

MAX_PAGE = 1_000
"""Maximum number of accounts in one page of GetRoyalties."""

WATCH_POLL_S = 0.25
"""Interval at which a watcher with nothing to read queries the ledger again."""

MAX_PAGE_TOKEN_CHARACTERS = 200

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger("attributor")


@asynccontextmanager
async def errors_as_status(context: Context, method: str, generation: str = "") -> AsyncIterator[None]:
    """End the call with a gRPC status if the block raises.

    Errors of `gmvaluator.errors` have a status each; any other becomes INTERNAL, and its traceback is logged.
    """
    # A request that is refused for its id may carry one of megabytes.
    generation = generation[:MAX_GENERATION_ID_CHARACTERS]
    try:
        yield
    except Failure as error:
        observe_refusal(error)
        _log.error("failed", method=method, generation_id=generation, error=str(error))
        await context.abort(grpc.StatusCode.INTERNAL, str(error))
    except GmvaluatorError as error:
        observe_refusal(error)
        _log.info("refused", method=method, generation_id=generation, error=str(error))
        await context.abort(grpc.StatusCode[status_of(error)], str(error), trailing_metadata(error))
    except (asyncio.CancelledError, grpc.aio.AbortError):
        raise
    except Exception as error:  # noqa: BLE001 - the border: a caller gets INTERNAL, the log gets the rest
        observe_refusal(error)
        _log.exception("broke", method=method, generation_id=generation)
        await context.abort(grpc.StatusCode.INTERNAL, "the attributor broke on this call; its log says more")


def client_of(context: Context, caller: Caller) -> str:
    """Return the name by which admission shares capacity: the token's or, without tokens, the connection's."""
    return context.peer() if caller is LOCAL else caller.name


def checked_request(request: attribution_v1.AttributeRequest, caller: Caller) -> ImageRequest:
    """Check a request, and that this caller may make it. Raises InvalidInput or Forbidden."""
    if request.WhichOneof("content") == "embedding":
        caller.require(Role.EMBEDDER, to="send an embedding in place of an image")
    caller.require_generator(request.model_version)
    return image_request(request, caller.generator_identity)


class AttributionServicer(AttributionServiceServicer):
    """The servicer of AttributionService, which calls the pipeline."""

    def __init__(self, gate: CallGate, stopping: asyncio.Event) -> None:
        """stopping: set when shutdown begins; open streams and watchers then end."""
        self._gate = gate
        self._stopping = stopping

    async def Attribute(
        self, request: attribution_v1.AttributeRequest, context: Context
    ) -> AsyncIterator[attribution_v1.AttributeResponse]:
        async with errors_as_status(context, "Attribute", request.generation_id):
            caller = current_caller()
            checked = checked_request(request, caller)
            with self._gate.admit(client_of(context, caller), checked.pixels) as pipeline:
                # Closed with the call: a generator that is only dropped runs on until it is garbage collected.
                async with aclosing(pipeline.attribute(checked)) as stages:
                    async for stage in stages:
                        yield attribution_v1.AttributeResponse(attribution=attribution_message(stage))

    async def AttributeStream(  # type: ignore[override]  # it writes by itself, with a timeout
        self, request_iterator: AsyncIterator[attribution_v1.AttributeStreamRequest], context: Context
    ) -> None:
        async with errors_as_status(context, "AttributeStream"):
            caller = current_caller()
            client = client_of(context, caller)

            def stages(
                request: attribution_v1.AttributeRequest, on_admitted: Callable[[], None]
            ) -> AsyncIterator[attribution_v1.Attribution]:
                return self._waiting_stages(checked_request(request, caller), client, on_admitted)

            with self._gate.stream(client) as opened:
                # Inside, too: a caller that reads nothing gets no status either, and keeps its slot until it reads.
                async with errors_as_status(context, "AttributeStream"):
                    stream = ImageStream(stages, self._stopping, opened.gives_way)
                    opened.idle = lambda: stream.idle
                    await stream.answer(request_iterator, lambda response: write_with_timeout(response, context))

    async def _waiting_stages(
        self, checked: ImageRequest, client: str, on_admitted: Callable[[], None]
    ) -> AsyncIterator[attribution_v1.Attribution]:
        async with self._gate.wait(client, checked.pixels) as pipeline:
            on_admitted()
            async with aclosing(pipeline.attribute(checked)) as stages:
                async for stage in stages:
                    yield attribution_message(stage)

    async def GetAttribution(
        self, request: attribution_v1.GetAttributionRequest, context: Context
    ) -> attribution_v1.GetAttributionResponse:
        async with errors_as_status(context, "GetAttribution", request.generation_id):
            caller = current_caller()
            with self._gate.query(client_of(context, caller)) as backends:
                identity = caller.generator_identity
                attribution = await backends.pipeline.find(identity, generation_id(request.generation_id))
            return attribution_v1.GetAttributionResponse(attribution=attribution_message(attribution))
        raise AssertionError("errors_as_status() aborts")

    async def Preview(
        self, request: attribution_v1.PreviewRequest, context: Context
    ) -> AsyncIterator[attribution_v1.PreviewResponse]:
        async with errors_as_status(context, "Preview"):
            caller = current_caller()
            caller.require_generator(request.model_version)
            checked = preview_request(request, caller.generator_identity)
            with self._gate.admit(client_of(context, caller), checked.pixels) as pipeline:
                async with aclosing(pipeline.preview(checked)) as stages:
                    async for stage in stages:
                        yield attribution_v1.PreviewResponse(attribution=attribution_message(stage))


class RoyaltyServicer(RoyaltyServiceServicer):
    """The servicer of RoyaltyService, which reads the ledger and opens disputes.

    A watcher is served from the ledger itself and from no side channel, so it sees every posting, once and in order.
    """

    def __init__(self, gate: CallGate, stopping: asyncio.Event) -> None:
        """stopping: set when shutdown begins; watchers then end."""
        self._gate = gate
        self._stopping = stopping

    async def GetRoyalties(
        self, request: royalty_v1.GetRoyaltiesRequest, context: Context
    ) -> royalty_v1.GetRoyaltiesResponse:
        async with errors_as_status(context, "GetRoyalties"):
            size = request.page_size or DEFAULT_PAGE
            if not 1 <= size <= MAX_PAGE:
                raise InvalidInput(f"page_size {size} is refused: ask for 1-{MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
            if len(request.page_token) > MAX_PAGE_TOKEN_CHARACTERS:
                raise InvalidInput("page_token is refused: give the next_page_token of the page before")
            caller = current_caller()
            with self._gate.query(client_of(context, caller)) as backends:
                return await asyncio.to_thread(self._page, backends, request.page_token, size, caller.only_account)
        raise AssertionError("errors_as_status() aborts")

    def _page(
        self, backends: Backends, after: str, size: int, own_account: str | None
    ) -> royalty_v1.GetRoyaltiesResponse:
        """Return a page of all balances, or the one of `own_account`."""
        ledger = backends.ledger
        page = ledger.balances(after, size) if own_account is None else ledger.balance(own_account)
        owners = [balance.owner_id for balance in page.balances if balance.owner_id is not None]
        names = backends.names.display_names(owners)
        royalties = [
            royalty_v1.Royalty(
                account=balance.account,
                display_name=names.get(balance.owner_id, "") if balance.owner_id else "",
                balance_micros=balance.balance_micros,
            )
            for balance in page.balances
        ]
        token = page.balances[-1].account if own_account is None and len(page.balances) == size else ""
        return royalty_v1.GetRoyaltiesResponse(royalties=royalties, next_page_token=token, sequence=page.sequence)

    async def WatchRoyalties(
        self, request: royalty_v1.WatchRoyaltiesRequest, context: Context
    ) -> AsyncIterator[royalty_v1.WatchRoyaltiesResponse]:
        async with errors_as_status(context, "WatchRoyalties"):
            sequence = request.after_sequence
            if sequence < 0:
                raise InvalidInput(f"after_sequence {sequence} is refused: begin at 0")
            with self._gate.watch(client_of(context, current_caller())) as ledger:
                # Polled: another process may write the ledger, and cannot signal this one.
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
        async with errors_as_status(context, "OpenDispute", request.generation_id):
            caller = current_caller()
            check_claimant(caller, request.claimant)
            with self._gate.query(client_of(context, caller)) as backends:
                owner_id = caller.owner_id if caller.only_account else None
                return await backends.disputes.open(request, owner_id)
        raise AssertionError("errors_as_status() aborts")

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), WATCH_POLL_S)


def check_claimant(caller: Caller, claimant: str) -> None:
    """Raise Forbidden if an owner opens a dispute in another's name, or in none."""
    if caller.only_account not in (None, claimant, f"owner:{claimant}"):
        raise Forbidden(f"{caller.name} may dispute in its own name alone: set claimant to {caller.only_account}")
