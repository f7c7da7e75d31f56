"""The call gate behind a real port: health, drain, and bounds on calls, streams, queries and watchers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attributor.core.attribution import Attribution, ImageRequest, Stage
from attributor.rpc import image_stream, interceptors
from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import Backends, CallGate
from attributor.rpc.health import HealthServicer
from attributor.rpc.interceptors import Authentication, MessageInterceptor
from attributor.rpc.places import WaitingCalls
from attributor.rpc.servicers import AttributionServicer, RoyaltyServicer
from attributor.server import SERVICES, drain, set_health
from gmvaluator.auth.authenticator import Authenticator
from gmvaluator.errors import Overloaded, Unavailable
from gmvaluator.ledger.results import BalancePage
from gmvaluator.v1 import attribution_pb2 as v1
from gmvaluator.v1 import royalty_pb2
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub, add_AttributionServiceServicer_to_server
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub, add_RoyaltyServiceServicer_to_server
from tests.support.waiting import until_async

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HeldPipeline:
    """Responds once `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def attribute(self, request: ImageRequest) -> AsyncIterator[Attribution]:
        await self.gate.wait()
        yield Attribution(request.generation_id, request.model_version, Stage.FINAL, (), 1.0, "paper@1")


class TalkingPipeline(HeldPipeline):
    """Yields large responses without end, and counts its callers."""

    def __init__(self) -> None:
        super().__init__()
        self.callers = 0

    async def attribute(self, request: ImageRequest) -> AsyncIterator[Attribution]:
        self.callers += 1
        try:
            while True:
                await asyncio.sleep(0)
                yield Attribution(
                    request.generation_id, request.model_version, Stage.RECALLED, (), 1.0, "p" * 1_000_000
                )
        finally:
            self.callers -= 1


class EmptyLedger:
    """A ledger without postings; `balances` returns once `gate` is set."""

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

    gate: CallGate
    pipeline: HeldPipeline
    ledger: EmptyLedger
    checker: HealthServicer
    attribution: Any
    royalty: Any
    health: Any
    channel: grpc.aio.Channel
    address: str

    def open(self) -> None:
        names = SimpleNamespace(display_names=lambda ids: {})
        backends = Backends(cast(Any, self.pipeline), cast(Any, self.ledger), cast(Any, names), cast(Any, None))
        self.gate.open(backends)

    def call(self, number: int = 0) -> Any:
        request = v1.AttributeRequest(generation_id=f"g{number}", model_version="m", image=b"x")
        return asyncio.ensure_future(collected(self.attribution.Attribute(request)))

    def stream(self, stub: Any = None) -> Any:
        """Send one image on a stream that stays open."""

        async def requests() -> AsyncIterator[v1.AttributeStreamRequest]:
            image = v1.AttributeRequest(generation_id="g", model_version="m", image=b"x")
            yield v1.AttributeStreamRequest(request=image)
            await asyncio.Event().wait()

        return (stub or self.attribution).AttributeStream(requests())

    async def status(self) -> int:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=SERVICES[1]))
        return int(answer.status)


async def collected(stream: Any) -> list[v1.AttributeResponse]:
    return [message async for message in stream]


@asynccontextmanager
async def running(max_in_flight: int = 8, **bounds: int) -> AsyncIterator[Running]:
    gate, stopping = CallGate(Admission(max_in_flight, 10**9), **bounds), asyncio.Event()
    checker = HealthServicer()
    server = grpc.aio.server(
        interceptors=[Authentication(Authenticator(None)), MessageInterceptor(WaitingCalls(100, 100))]
    )
    add_AttributionServiceServicer_to_server(AttributionServicer(gate, stopping), server)
    add_RoyaltyServiceServicer_to_server(RoyaltyServicer(gate, stopping), server)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    set_health(checker, NOT_SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stubs = AttributionServiceStub(channel), RoyaltyServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        yield Running(gate, HeldPipeline(), EmptyLedger(), checker, *stubs, channel, f"127.0.0.1:{port}")
    stopping.set()
    await server.stop(1)


async def test_before_it_is_warm_it_is_not_serving_and_refuses_calls() -> None:
    async with running() as server:
        assert await server.status() == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.call()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "starting" in str(refused.value.details())


async def test_a_drain_refuses_new_calls_and_waits_for_those_in_flight() -> None:
    async with running() as server:
        server.open()
        set_health(server.checker, SERVING)
        held = server.call()
        await until_async(lambda: server.gate.in_flight == 1)
        assert not await drain(server.gate, server.checker, 0.05)
        assert await server.status() == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.call(1)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        draining = asyncio.create_task(drain(server.gate, server.checker, 10))
        server.pipeline.gate.set()
        assert await draining
        assert len(await held) == 1


async def test_calls_above_the_limit_are_refused_at_once_with_a_retry_delay() -> None:
    async with running(max_in_flight=2) as server:
        server.open()
        held = [server.call(number) for number in range(2)]
        await until_async(lambda: server.gate.in_flight == 2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.call(3)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("grpc-retry-pushback-ms", "250") in list(refused.value.trailing_metadata())
        server.pipeline.gate.set()
        assert len(await asyncio.gather(*held)) == 2
        assert server.gate.in_flight == 0


async def test_cancelled_calls_free_their_slots() -> None:
    async with running(max_in_flight=4) as server:
        server.open()
        calls = [server.call(number) for number in range(4)]
        await until_async(lambda: server.gate.in_flight == 4)
        for call in calls:
            call.cancel()
        await until_async(lambda: server.gate.in_flight == 0)


async def test_watchers_are_bounded_and_free_their_slots() -> None:
    async with running(max_watchers=4) as server:
        server.open()
        watching = [server.royalty.WatchRoyalties(royalty_pb2.WatchRoyaltiesRequest()) for _ in range(2)]
        reads = [asyncio.ensure_future(watcher.read()) for watcher in watching]
        await until_async(lambda: server.gate.watchers.held == 2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.royalty.WatchRoyalties(royalty_pb2.WatchRoyaltiesRequest()).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watcher in watching:
            watcher.cancel()
        await until_async(lambda: server.gate.watchers.held == 0)
        await asyncio.gather(*reads, return_exceptions=True)


async def test_streams_are_bounded_and_free_their_slots() -> None:
    async with running(max_streams=4) as server:
        server.open()
        streams = [server.stream() for _ in range(2)]
        reads = [asyncio.ensure_future(stream.read()) for stream in streams]
        await until_async(lambda: server.gate.in_flight == 2)
        with pytest.raises(grpc.aio.AioRpcError, match="2 of them yours") as refused:
            await server.stream().read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()
        await until_async(lambda: server.gate.in_flight == 0)
        server.pipeline.gate.set()
        assert (await server.stream().read()).attribution.stage == v1.STAGE_FINAL
        await asyncio.gather(*reads, return_exceptions=True)


async def test_one_client_may_open_half_of_the_streams() -> None:
    gate = CallGate(Admission(1, 10**9), max_streams=3)
    gate.open(Backends(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None)))
    with gate.stream("a"), gate.stream("a"):
        with pytest.raises(Overloaded, match="2 of them yours"), gate.stream("a"):
            raise AssertionError("admitted")
        with gate.stream("b"), pytest.raises(Overloaded, match="3 streams"), gate.stream("c"):
            raise AssertionError("admitted")
    with gate.stream("c"):
        assert gate.in_flight == 0


async def test_an_idle_stream_gives_way_to_a_client_with_fewer() -> None:
    async with running(max_streams=4) as server:
        server.open()
        server.pipeline.gate.set()
        streams = [server.stream() for _ in range(2)]
        async with grpc.aio.insecure_channel(
            server.address, options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        ) as other:
            stub: Any = AttributionServiceStub(other)
            streams += [server.stream(stub) for _ in range(2)]
            for stream in streams:
                assert (await stream.read()).attribution.stage == v1.STAGE_FINAL
            async with grpc.aio.insecure_channel(
                server.address, options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
            ) as third:
                newcomer = server.stream(cast(Any, AttributionServiceStub(third)))
                assert (await newcomer.read()).attribution.stage == v1.STAGE_FINAL
                reads = [asyncio.ensure_future(stream.read()) for stream in streams]
                (ended, *_), _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
                with pytest.raises(grpc.aio.AioRpcError, match="idle") as caught:
                    await ended
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                for stream in (*streams, newcomer):
                    stream.cancel()
                await asyncio.gather(*reads, return_exceptions=True)


async def test_a_stream_with_an_image_in_flight_gives_way_to_nobody() -> None:
    gate = CallGate(Admission(1, 10**9), max_streams=2)
    gate.open(Backends(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None)))
    with gate.stream("a"), gate.stream("b") as idle:
        idle.idle = lambda: True
        with pytest.raises(Overloaded), gate.stream("c"):  # of which each other client has one
            raise AssertionError("admitted")
    assert not idle.gives_way.is_set()


async def test_a_stream_whose_reader_stalls_is_ended_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "WRITE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(image_stream, "MAX_UNREAD", 1)
    async with running(max_streams=1) as server:
        server.pipeline = talking = TalkingPipeline()
        server.open()
        stalled = server.stream()
        await until_async(lambda: talking.callers == 1)
        await until_async(lambda: talking.callers == 0)
        await until_async(lambda: server.gate.in_flight == 0)
        with pytest.raises(grpc.aio.AioRpcError, match="1 streams"):  # until it reads that it was given up
            await server.stream().read()
        with pytest.raises(grpc.aio.AioRpcError, match="nobody read") as ended:
            _ = [answer async for answer in stalled]
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await server.stream().read()).attribution.stage == v1.STAGE_RECALLED


async def test_an_image_whose_reader_stalls_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "WRITE_TIMEOUT_S", 0.5)
    async with running(max_in_flight=1) as server:
        server.pipeline = talking = TalkingPipeline()
        server.open()
        stalled = server.attribution.Attribute(v1.AttributeRequest(generation_id="g", model_version="m", image=b"x"))
        await until_async(lambda: talking.callers == 1)
        await until_async(lambda: server.gate.in_flight == 0)
        again = server.attribution.Attribute(v1.AttributeRequest(generation_id="h", model_version="m", image=b"x"))
        assert (await again.read()).attribution.generation_id == "h"
        with pytest.raises(grpc.aio.AioRpcError, match="nobody read") as ended:
            _ = [answer async for answer in stalled]
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_sends_no_request_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_queries_of_royalties_are_bounded() -> None:
    async with running(max_queries=1) as server:
        server.open()
        query = server.royalty.GetRoyalties
        first = asyncio.ensure_future(query(royalty_pb2.GetRoyaltiesRequest()))
        await until_async(lambda: server.gate.in_flight == 1)
        with pytest.raises(grpc.aio.AioRpcError, match="questions") as refused:
            await query(royalty_pb2.GetRoyaltiesRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        server.ledger.gate.set()
        assert (await first).sequence == 0
        assert server.gate.in_flight == 0


async def test_the_gate_without_a_server() -> None:
    gate = CallGate(Admission(1, 10**9))
    with pytest.raises(Unavailable, match="starting"):
        _ = gate.backends
    gate.open(Backends(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None)))
    with gate.admit("a", 1), pytest.raises(Overloaded), gate.admit("b", 1):
        raise AssertionError("admitted")
    gate.close()
    with pytest.raises(Unavailable, match="stopping"):
        _ = gate.backends
