"""The service's doors: NOT_SERVING before and after, nobody cut off in a drain, and no more calls than it can carry."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from attributor.core.attribution import Attribution, ImageRequest, Stage
from attributor.rpc import image_stream, interceptors
from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import Backends, CallGate
from attributor.rpc.interceptors import Authentication, MessageInterceptor
from attributor.rpc.servicers import AttributionServicer, RoyaltyServicer
from attributor.server import SERVICES, drain, set_health
from gmvaluator.auth.authenticator import Authenticator
from gmvaluator.errors import Overloaded, Unavailable
from gmvaluator.ledger.results import BalancePage
from gmvaluator.v1 import attribution_pb2 as v1
from gmvaluator.v1 import royalty_pb2
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub, add_AttributionServiceServicer_to_server
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub, add_RoyaltyServiceServicer_to_server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HeldPipeline:
    """Answers once it is let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def attribute(self, request: ImageRequest) -> AsyncIterator[Attribution]:
        await self.gate.wait()
        yield Attribution(request.generation_id, request.model_version, Stage.FINAL, (), 1.0, "paper@1")


class TalkingPipeline(HeldPipeline):
    """Says much and never comes to an end, and counts whom it talks to."""

    def __init__(self) -> None:
        super().__init__()
        self.heard_by = 0

    async def attribute(self, request: ImageRequest) -> AsyncIterator[Attribution]:
        self.heard_by += 1
        try:
            while True:
                await asyncio.sleep(0)
                yield Attribution(
                    request.generation_id, request.model_version, Stage.RECALLED, (), 1.0, "p" * 1_000_000
                )
        finally:
            self.heard_by -= 1


class EmptyLedger:
    """Nothing was posted, which is told once it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def postings_after(self, sequence: int, limit: int) -> list[Any]:
        return []

    def balances(self, after: str, limit: int) -> BalancePage:
        self.gate.wait(10)
        return BalancePage((), 0)


@dataclass
class Running:
    """A server on a real port over fakes, and stubs to it."""

    service: CallGate
    pipeline: HeldPipeline
    ledger: EmptyLedger
    checker: health.aio.HealthServicer
    attribution: Any
    royalty: Any
    health: Any
    channel: grpc.aio.Channel

    def open(self) -> None:
        names = SimpleNamespace(display_names=lambda ids: {})
        backends = Backends(cast(Any, self.pipeline), cast(Any, self.ledger), cast(Any, names), cast(Any, None))
        self.service.open(backends)

    def call(self, number: int = 0) -> Any:
        request = v1.AttributeRequest(generation_id=f"g{number}", model_version="m", image=b"x")
        return asyncio.ensure_future(collected(self.attribution.Attribute(request)))

    def stream(self) -> Any:
        """One image on a stream that the caller keeps open."""

        async def requests() -> AsyncIterator[v1.AttributeStreamRequest]:
            image = v1.AttributeRequest(generation_id="g", model_version="m", image=b"x")
            yield v1.AttributeStreamRequest(request=image)
            await asyncio.Event().wait()

        return self.attribution.AttributeStream(requests())

    async def status(self) -> int:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=SERVICES[1]))
        return int(answer.status)


async def collected(stream: Any) -> list[v1.AttributeResponse]:
    return [message async for message in stream]


@asynccontextmanager
async def running(max_in_flight: int = 8, **bounds: int) -> AsyncIterator[Running]:
    service, stopping, checker = (
        CallGate(Admission(max_in_flight, 10**9), **bounds),
        asyncio.Event(),
        health.aio.HealthServicer(),
    )
    server = grpc.aio.server(interceptors=[Authentication(Authenticator(None)), MessageInterceptor()])
    add_AttributionServiceServicer_to_server(AttributionServicer(service, stopping), server)
    add_RoyaltyServiceServicer_to_server(RoyaltyServicer(service, stopping), server)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    await set_health(checker, NOT_SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stubs = AttributionServiceStub(channel), RoyaltyServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        yield Running(service, HeldPipeline(), EmptyLedger(), checker, *stubs, channel)
    stopping.set()
    await server.stop(1)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is across a wire
            await asyncio.sleep(0.01)


async def test_before_it_is_warm_it_says_so_and_takes_no_call() -> None:
    async with running() as server:
        assert await server.status() == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.call()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "starting" in str(refused.value.details())


async def test_a_drain_refuses_new_calls_and_waits_for_those_in_flight() -> None:
    async with running() as server:
        server.open()
        await set_health(server.checker, SERVING)
        held = server.call()
        await until(lambda: server.service.in_flight == 1)
        assert not await drain(server.service, server.checker, 0.05)
        assert await server.status() == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.call(1)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        draining = asyncio.create_task(drain(server.service, server.checker, 10))
        server.pipeline.gate.set()
        assert await draining
        assert len(await held) == 1


async def test_calls_above_the_limit_are_refused_at_once_with_a_pause() -> None:
    async with running(max_in_flight=2) as server:
        server.open()
        held = [server.call(number) for number in range(2)]
        await until(lambda: server.service.in_flight == 2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.call(3)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("grpc-retry-pushback-ms", "250") in list(refused.value.trailing_metadata())
        server.pipeline.gate.set()
        assert len(await asyncio.gather(*held)) == 2
        assert server.service.in_flight == 0


async def test_callers_who_leave_give_their_places_back() -> None:
    async with running(max_in_flight=4) as server:
        server.open()
        calls = [server.call(number) for number in range(4)]
        await until(lambda: server.service.in_flight == 4)
        for call in calls:
            call.cancel()
        await until(lambda: server.service.in_flight == 0)


async def test_watchers_are_bounded_and_give_their_places_back() -> None:
    async with running(max_watchers=2) as server:
        server.open()
        watching = [server.royalty.WatchRoyalties(royalty_pb2.WatchRoyaltiesRequest()) for _ in range(2)]
        reads = [asyncio.ensure_future(watcher.read()) for watcher in watching]
        await until(lambda: server.service.watchers.held == 2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.royalty.WatchRoyalties(royalty_pb2.WatchRoyaltiesRequest()).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watcher in watching:
            watcher.cancel()
        await until(lambda: server.service.watchers.held == 0)
        await asyncio.gather(*reads, return_exceptions=True)


async def test_streams_are_bounded_and_give_their_places_back() -> None:
    async with running(max_streams=4) as server:
        server.open()
        streams = [server.stream() for _ in range(2)]
        reads = [asyncio.ensure_future(stream.read()) for stream in streams]
        await until(lambda: server.service.in_flight == 2)
        with pytest.raises(grpc.aio.AioRpcError, match="2 of them yours") as refused:
            await server.stream().read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()
        await until(lambda: server.service.in_flight == 0)
        server.pipeline.gate.set()
        assert (await server.stream().read()).attribution.stage == v1.STAGE_FINAL
        await asyncio.gather(*reads, return_exceptions=True)


async def test_one_client_leaves_streams_to_others() -> None:
    service = CallGate(Admission(1, 10**9), max_streams=3)
    service.open(Backends(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None)))
    with service.stream("a"), service.stream("a"):
        with pytest.raises(Overloaded, match="2 of them yours"), service.stream("a"):
            raise AssertionError("admitted")
        with service.stream("b"), pytest.raises(Overloaded, match="3 streams"), service.stream("c"):
            raise AssertionError("admitted")
    with service.stream("c"):
        assert service.in_flight == 0


async def test_a_stream_whose_reader_stalls_is_ended_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "WRITE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(image_stream, "MAX_UNREAD", 1)
    async with running(max_streams=1) as server:
        server.pipeline = talking = TalkingPipeline()
        server.open()
        stalled = server.stream()
        await until(lambda: talking.heard_by == 1)
        await until(lambda: talking.heard_by == 0)
        await until(lambda: server.service.in_flight == 0)
        with pytest.raises(grpc.aio.AioRpcError, match="1 streams"):  # until it reads that it was given up
            await server.stream().read()
        with pytest.raises(grpc.aio.AioRpcError, match="nobody read") as given_up:
            _ = [answer async for answer in stalled]
        assert given_up.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await server.stream().read()).attribution.stage == v1.STAGE_RECALLED


async def test_an_image_whose_caller_does_not_read_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "WRITE_TIMEOUT_S", 0.5)
    async with running(max_in_flight=1) as server:
        server.pipeline = talking = TalkingPipeline()
        server.open()
        stalled = server.attribution.Attribute(v1.AttributeRequest(generation_id="g", model_version="m", image=b"x"))
        await until(lambda: talking.heard_by == 1)
        await until(lambda: server.service.in_flight == 0)
        again = server.attribution.Attribute(v1.AttributeRequest(generation_id="h", model_version="m", image=b"x"))
        assert (await again.read()).attribution.generation_id == "h"
        with pytest.raises(grpc.aio.AioRpcError, match="nobody read") as given_up:
            _ = [answer async for answer in stalled]
        assert given_up.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_sends_no_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "READ_TIMEOUT_S", 0.05)
    async with running() as server:
        server.open()
        half_open = server.channel.stream_stream(
            "/gmvaluator.v1.AttributionService/Attribute",
            request_serializer=v1.AttributeRequest.SerializeToString,
            response_deserializer=v1.AttributeResponse.FromString,
        )()
        with pytest.raises(grpc.aio.AioRpcError, match="no request came") as refused:
            await half_open.read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_questions_about_royalties_are_bounded() -> None:
    async with running(max_queries=1) as server:
        server.open()
        ask = server.royalty.GetRoyalties
        first = asyncio.ensure_future(ask(royalty_pb2.GetRoyaltiesRequest()))
        await until(lambda: server.service.in_flight == 1)
        with pytest.raises(grpc.aio.AioRpcError, match="questions") as refused:
            await ask(royalty_pb2.GetRoyaltiesRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        server.ledger.gate.set()
        assert (await first).sequence == 0
        assert server.service.in_flight == 0


async def test_the_doors_without_a_wire() -> None:
    service = CallGate(Admission(1, 10**9))
    with pytest.raises(Unavailable, match="starting"):
        _ = service.backends
    service.open(Backends(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None)))
    with service.admit("a", 1), pytest.raises(Overloaded), service.admit("b", 1):
        raise AssertionError("admitted")
    service.close()
    with pytest.raises(Unavailable, match="stopping"):
        _ = service.backends
