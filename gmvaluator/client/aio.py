"""An asyncio client of the attributor. `sync.py`, the blocking client, is generated from this file by `make client`."""

from __future__ import annotations

import itertools
import math
import time
from asyncio import sleep
from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import datetime
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gmvaluator.client.connection import Connection
from gmvaluator.client.requests import (
    DEADLINE_S,
    NO_RETRIES,
    SERVICE,
    WATCH_RETRIES,
    Content,
    Retries,
    StreamRequests,
    attribute_request,
    failure_of,
    preview_request,
    translated,
)
from gmvaluator.errors import GmvaluatorError, Overloaded, Unavailable
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub

_PROBE_S = 2.0
"""Timeout of one health check."""

_PROBE_PAUSE_S = 0.1
"""Pause between two health checks."""


class AsyncAttributorClient:
    """A client of one attributor, or of several behind one address; use it as a context manager, or call `close`.

    The blocking client is thread-safe; the asyncio client belongs to the event loop that created it. Errors are those
    of `gmvaluator.errors`: InvalidInput, PreconditionFailed, NotFound, Conflict, Overloaded, Unavailable, Failure.
    After Overloaded or Unavailable the same image may be sent again under the same id: it is credited once. `retries`
    does so.
    """

    def __init__(self, server: str | Connection, deadline_s: float = DEADLINE_S, retries: Retries = NO_RETRIES) -> None:
        """Open a channel; nothing is sent before the first call.

        server: host:port, with token and TLS from the environment's GMV_*, or a `Connection`. deadline_s: default
        timeout of a call, with its retries. Raises InvalidInput or PreconditionFailed for settings that cannot work.
        """
        self._connection = Connection.from_environment(address=server) if isinstance(server, str) else server
        self.address = self._connection.address
        self._deadline_s = deadline_s
        self._retries = retries
        # The token is read again for every call and passed as metadata, so that its file can be replaced.
        self._channel = self._connection.aio_channel()
        self._attribution: Any = AttributionServiceStub(self._channel)
        self._royalty: Any = RoyaltyServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    async def wait_until_serving(self, timeout_s: float) -> None:
        """Wait until the health check says SERVING. Raises Unavailable after `timeout_s`."""
        ends_at = time.monotonic() + timeout_s
        while not await self._is_serving(ends_at - time.monotonic()):
            if time.monotonic() >= ends_at:
                raise Unavailable(f"the attributor at {self.address} does not serve after {timeout_s:.0f} s")
            await sleep(_PROBE_PAUSE_S)

    async def _is_serving(self, left_s: float) -> bool:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        # A last check gets a little time even when the deadline has passed.
        timeout_s = min(max(left_s, _PROBE_PAUSE_S), _PROBE_S)
        try:
            response = await self._health.Check(request, timeout=timeout_s, metadata=self._connection.metadata())
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def attribute(
        self,
        image: Content,
        generation_id: str,
        model_version: str,
        generated_at: datetime | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[attribution_v1.Attribution]:
        """Value one image, or its embedding, and post its credits; yield RECALLED, RERANKED and FINAL as they arrive.

        A call that fails with an error that may be retried (see `Retries`) is retried until the deadline; a stage may
        then arrive twice. generated_at: a time with its zone; now, by the attributor's clock, if absent.
        """
        request = attribute_request(image, generation_id, model_version, generated_at)
        async for response in self._with_retries(self._attribution.Attribute, request, deadline_s):
            yield response.attribution

    async def attribute_many(
        self, images: AsyncIterable[tuple[str, Content]], model_version: str, deadline_s: float | None = None
    ) -> AsyncIterator[tuple[str, attribution_v1.Attribution | GmvaluatorError]]:
        """Value many (generation_id, image) pairs on one stream; yield (generation_id, stage or error) as they arrive.

        An image that fails does not end the others; the error of one that cannot be sent comes with the next answer,
        or at the end. A lost connection raises Unavailable: send again every image without a FINAL, under the same
        ids. `images` is read while the attributor accepts more, by the blocking client in another thread; an exception
        that it raises is raised here once the images before it are answered. No deadline unless one is given.
        """
        sending = StreamRequests(model_version)

        async def requests() -> AsyncIterator[attribution_v1.AttributeStreamRequest]:
            with sending.capture():
                async for generation_id, image in images:
                    for request in sending.request(generation_id, image):
                        yield request

        with translated(self.address):
            responses = self._attribution.AttributeStream(
                requests(), timeout=deadline_s, metadata=self._connection.metadata()
            )
            async for response in responses:
                for refusal in sending.refused():
                    yield refusal
                failed = response.HasField("failure")
                yield (
                    response.generation_id,
                    failure_of(response.failure, self.address) if failed else response.attribution,
                )
        for refusal in sending.refused():
            yield refusal
        sending.check()

    async def preview(
        self, image: bytes, model_version: str, policy: str = ""
    ) -> AsyncIterator[attribution_v1.Attribution]:
        """Value one image like `attribute`, but post nothing. policy: the attributor's own, if empty."""
        request = preview_request(image, model_version, policy)
        async for response in self._with_retries(self._attribution.Preview, request, None):
            yield response.attribution

    async def get_attribution(self, generation_id: str) -> attribution_v1.Attribution:
        """Return the posted attribution of a generation. Raises NotFound."""
        request = attribution_v1.GetAttributionRequest(generation_id=generation_id)
        response = await self._call(self._attribution.GetAttribution, request)
        attribution: attribution_v1.Attribution = response.attribution
        return attribution

    async def royalties(self, page_size: int = 100) -> AsyncIterator[royalty_v1.Royalty]:
        """Yield the balances of all accounts, by account name; page_size: balances a call."""
        token = ""
        while True:
            request = royalty_v1.GetRoyaltiesRequest(page_size=page_size, page_token=token)
            page = await self._call(self._royalty.GetRoyalties, request)
            for royalty in page.royalties:
                yield royalty
            token = page.next_page_token
            if not token:
                return

    async def watch_royalties(
        self, after_sequence: int = 0, resume: bool = False
    ) -> AsyncIterator[royalty_v1.WatchRoyaltiesResponse]:
        """Yield every posting after a sequence number, then each new one, until the attributor stops.

        resume: when the connection is lost, reconnect for as long as it takes and continue after the last posting,
        instead of raising Unavailable.
        """
        attempt = 1
        while True:
            request = royalty_v1.WatchRoyaltiesRequest(after_sequence=after_sequence)
            try:
                with translated(self.address):
                    async for posting in self._royalty.WatchRoyalties(request, metadata=self._connection.metadata()):
                        yield posting
                        after_sequence, attempt = posting.sequence, 1
            except (Overloaded, Unavailable):
                if not resume:
                    raise
            else:
                if not resume:
                    return
            await sleep(WATCH_RETRIES.pause_s(Unavailable(""), attempt, math.inf) or 0.0)
            attempt += 1

    async def open_dispute(
        self,
        dispute_id: str,
        reason: str,
        training_image_id: str = "",
        generation_id: str = "",
        claimant: str = "",
    ) -> royalty_v1.OpenDisputeResponse:
        """Open a dispute about the credits of a training image, of a generation, or of one within the other.

        dispute_id: the caller's own, never used again; the same request returns the dispute in its present state.
        """
        request = royalty_v1.OpenDisputeRequest(
            dispute_id=dispute_id,
            training_image_id=training_image_id,
            generation_id=generation_id,
            claimant=claimant,
            reason=reason,
        )
        response: royalty_v1.OpenDisputeResponse = await self._call(self._royalty.OpenDispute, request)
        return response

    async def close(self) -> None:
        """Close the channel; calls in progress end with Unavailable."""
        await self._channel.close()

    async def _call(self, method: Callable[..., Any], request: Any) -> Any:
        with translated(self.address):
            return await method(request, timeout=self._deadline_s, metadata=self._connection.metadata())

    async def _with_retries(
        self, method: Callable[..., Any], request: Any, deadline_s: float | None
    ) -> AsyncIterator[Any]:
        ends_at = time.monotonic() + (deadline_s or self._deadline_s)
        for attempt in itertools.count(1):
            left_s = ends_at - time.monotonic()
            try:
                with translated(self.address):
                    async for response in method(request, timeout=left_s, metadata=self._connection.metadata()):
                        yield response
                    return
            except (Overloaded, Unavailable) as error:
                pause_s = self._retries.pause_s(error, attempt, ends_at - time.monotonic())
                if pause_s is None:
                    raise
            await sleep(pause_s)

    async def __aenter__(self) -> AsyncAttributorClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
