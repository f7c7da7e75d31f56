"""The same client for asyncio programs."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
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
    Content,
    Retries,
    StreamRequests,
    attribute_request,
    failure_of,
    preview_request,
    translated,
)
from gmvaluator.client.sync import WATCH_AGAIN
from gmvaluator.errors import GmvaluatorError, Overloaded, Unavailable
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub


class AsyncAttributorClient:
    """`gmvaluator.client.sync.AttributorClient` for one event loop; each method is described there."""

    def __init__(self, server: str | Connection, deadline_s: float = DEADLINE_S, retries: Retries = NO_RETRIES) -> None:
        self._connection = Connection.from_environment(address=server) if isinstance(server, str) else server
        self.address = self._connection.address
        self._deadline_s = deadline_s
        self._retries = retries
        self._channel = self._connection.aio_channel()
        self._attribution: Any = AttributionServiceStub(self._channel)
        self._royalty: Any = RoyaltyServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    async def wait_until_serving(self, timeout_s: float) -> None:
        """Raises Unavailable after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._serving():  # noqa: ASYNC110 - what is waited for is across a wire
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Unavailable(f"the attributor at {self.address} does not serve after {timeout_s:.0f} s") from None

    async def _serving(self) -> bool:
        try:
            response = await self._health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=2.0)
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
        """RECALLED, RERANKED and FINAL as they arrive."""
        request = attribute_request(image, generation_id, model_version, generated_at)
        async for response in self._again(self._attribution.Attribute, request, deadline_s):
            yield response.attribution

    async def attribute_many(
        self, images: AsyncIterable[tuple[str, Content]], model_version: str, deadline_s: float | None = None
    ) -> AsyncIterator[tuple[str, attribution_v1.Attribution | GmvaluatorError]]:
        """(generation_id, stage or error) as they come."""
        sending = StreamRequests(model_version)

        async def requests() -> AsyncIterator[attribution_v1.AttributeStreamRequest]:
            with sending.kept():
                async for name, image in images:
                    for request in sending.request(name, image):
                        yield request

        with translated(self.address):
            call = self._attribution.AttributeStream(
                requests(), timeout=deadline_s, metadata=self._connection.metadata()
            )
            async for response in call:
                for refused in sending.refused():
                    yield refused
                failed = response.HasField("failure")
                yield (
                    response.generation_id,
                    failure_of(response.failure, self.address) if failed else response.attribution,
                )
        for refused in sending.refused():
            yield refused
        sending.check()

    async def preview(
        self, image: bytes, model_version: str, policy: str = ""
    ) -> AsyncIterator[attribution_v1.Attribution]:
        """As `attribute`, but nothing is posted."""
        request = preview_request(image, model_version, policy)
        async for response in self._again(self._attribution.Preview, request, None):
            yield response.attribution

    async def get_attribution(self, generation_id: str) -> attribution_v1.Attribution:
        """What was posted for a generation. Raises NotFound."""
        request = attribution_v1.GetAttributionRequest(generation_id=generation_id)
        with translated(self.address):
            answer = await self._attribution.GetAttribution(
                request, timeout=self._deadline_s, metadata=self._connection.metadata()
            )
        found: attribution_v1.Attribution = answer.attribution
        return found

    async def watch_royalties(
        self, after_sequence: int = 0, resume: bool = False
    ) -> AsyncIterator[royalty_v1.WatchRoyaltiesResponse]:
        """Every posting after a sequence, then each new one; with `resume`, past cuts."""
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
            await asyncio.sleep(WATCH_AGAIN.pause_s(Unavailable(""), attempt, math.inf) or 0.0)
            attempt += 1

    async def close(self) -> None:
        await self._channel.close()

    async def _again(self, call: Callable[..., Any], request: Any, deadline_s: float | None) -> AsyncIterator[Any]:
        ends_at = time.monotonic() + (deadline_s or self._deadline_s)
        for attempt in itertools.count(1):
            left_s = ends_at - time.monotonic()
            try:
                with translated(self.address):
                    async for response in call(request, timeout=left_s, metadata=self._connection.metadata()):
                        yield response
                    return
            except (Overloaded, Unavailable) as error:
                pause_s = self._retries.pause_s(error, attempt, ends_at - time.monotonic())
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)

    async def __aenter__(self) -> AsyncAttributorClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
