"""Callers without a token on real ports: however many calls they leave open, probes and other callers are answered."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attributor.rpc import interceptors
from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import CallGate
from attributor.rpc.health import HealthServicer
from attributor.server import listen, load_authenticator, serve_probes, set_health
from attributor.settings import AttributorSettings
from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, new_token, token_sha256
from gmvaluator.v1.royalty_pb2 import GetRoyaltiesRequest
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
ATTRIBUTE = "/gmvaluator.v1.AttributionService/Attribute"
STREAM = "/gmvaluator.v1.AttributionService/AttributeStream"
MANY = 330
CODE = grpc.StatusCode
WARM_UP = "starting"
"""The message of a call that was let in; the servers of these tests never open their gate."""


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    # A pool of its own: channels with equal arguments would share one connection.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


@asynccontextmanager
async def attributor(settings: AttributorSettings) -> AsyncIterator[tuple[str, HealthServicer]]:
    gate = CallGate(Admission(8, 10**9))
    server, health, address = await listen(settings, gate, asyncio.Event(), load_authenticator(settings), None)
    yield address, health
    await server.stop(0)


@pytest.fixture
def settings(tmp_path: Path) -> AttributorSettings:
    return AttributorSettings(tmp_path, address="127.0.0.1:0", max_in_flight=16)


def watch(channel: grpc.aio.Channel, service: str = "") -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service))


async def checked(address: str) -> int:
    """Return the health as a new connection sees it."""
    async with channel_to(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)).status)


async def asked(address: str, metadata: Any = ()) -> str:
    """Call GetRoyalties on a new connection; return the details of its refusal."""
    async with channel_to(address) as channel:
        stub: Any = RoyaltyServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetRoyalties(GetRoyaltiesRequest(), metadata=metadata, timeout=20)
    return str(refused.value.details())


async def first_outcome(call: Any) -> Any:
    """Return the first answer of a call, or its status."""
    try:
        answer = await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return answer if answer is not grpc.aio.EOF else await call.code()


async def test_watches_of_health_stop_neither_probes_nor_calls(settings: AttributorSettings) -> None:
    async with attributor(settings) as (address, health), AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(channel_to(address)) for _ in range(2)]
        watches = [watch(channel) for channel in channels for _ in range(MANY)]
        outcomes = await asyncio.gather(*map(first_outcome, watches))
        assert 2 <= sum(isinstance(outcome, health_pb2.HealthCheckResponse) for outcome in outcomes) <= 2 * 16
        assert await checked(address) == NOT_SERVING
        assert WARM_UP in await asked(address)
        async with channel_to(address) as neighbour:
            watcher = watch(neighbour)
            assert (await watcher.read()).status == NOT_SERVING
            set_health(health, SERVING)
            assert (await watcher.read()).status == SERVING


@pytest.mark.parametrize("method", [CHECK, WATCH, ATTRIBUTE, STREAM])
async def test_headers_without_a_message_stop_neither_probes_nor_calls(
    settings: AttributorSettings, method: str
) -> None:
    async with attributor(settings) as (address, _), AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(channel_to(address)) for _ in range(3)]
        calls: list[Any] = [channel.stream_stream(method)() for channel in channels for _ in range(200)]
        await asyncio.gather(*(call.wait_for_connection() for call in calls[::200]))
        assert await checked(address) == NOT_SERVING
        assert WARM_UP in await asked(address)
        async with channel_to(address) as neighbour:
            assert (await watch(neighbour).read()).status == NOT_SERVING
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("method", [CHECK, WATCH, ATTRIBUTE, STREAM])
async def test_a_call_without_a_message_ends_after_a_time(
    settings: AttributorSettings, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("READ_TIMEOUT_S", "STREAM_TIMEOUT_S", "PUBLIC_TIMEOUT_S"):
        monkeypatch.setattr(interceptors, name, 0.05)
    async with attributor(settings) as (address, _), channel_to(address) as channel:
        call: Any = channel.stream_stream(method)()
        assert await first_outcome(call) is CODE.UNAVAILABLE


async def test_signed_in_callers_are_answered_while_strangers_wait(settings: AttributorSettings) -> None:
    token = new_token()
    entry = Token("operator", Role.OPERATOR, token_sha256(token), "2026-01-01T00:00:00+00:00")
    add_token(settings.tokens_file, entry)
    async with attributor(replace(settings, max_connections=64)) as (address, _), AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(channel_to(address)) for _ in range(8)]
        calls: list[Any] = [channel.stream_stream(WATCH)() for channel in channels for _ in range(100)]
        calls += [watch(channel) for channel in channels for _ in range(100)]
        assert WARM_UP in await asked(address, (("authorization", f"Bearer {token}"),))
        assert "no token" in await asked(address)
        for call in calls:
            call.cancel()


async def test_a_request_without_a_token_is_small(settings: AttributorSettings) -> None:
    async with attributor(settings) as (address, _), channel_to(address) as channel:
        assert await first_outcome(watch(channel, "x" * 5_000)) is CODE.INVALID_ARGUMENT


async def test_streams_of_reflection_are_bounded(settings: AttributorSettings) -> None:
    async with attributor(settings) as (address, _), channel_to(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
        calls = [stub.ServerReflectionInfo() for _ in range(60)]
        for call in calls:
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        outcomes = await asyncio.gather(*map(first_outcome, calls))
        assert 1 <= sum(isinstance(outcome, reflection_pb2.ServerReflectionResponse) for outcome in outcomes) <= 16
        for call in calls:
            call.cancel()


async def test_the_port_for_probes_answers_though_watches_fill_it() -> None:
    health = HealthServicer()
    set_health(health, SERVING)
    async with serve_probes("127.0.0.1:0", health) as port, AsyncExitStack() as stack:
        address = f"127.0.0.1:{port}"
        channels = [await stack.enter_async_context(channel_to(address)) for _ in range(10)]
        calls: list[Any] = [watch(channel) for channel in channels for _ in range(20)]
        calls += [channel.stream_stream(CHECK)() for channel in channels for _ in range(20)]
        assert await checked(address) == SERVING
        for call in calls:
            call.cancel()


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Return one frame of HTTP/2."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def literal(name: str, value: str) -> bytes:
    """Return a header that is not indexed, in HPACK."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def watches_that_are_never_read(count: int) -> bytes:
    """Return the bytes of a connection with a window of zero that watches the server's health `count` times."""
    headers = b"\x83\x86" + literal(":path", WATCH) + literal(":authority", "x")
    headers += literal("te", "trailers") + literal("content-type", "application/grpc")
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"\0\4\0\0\0\0")
    for stream in range(1, 2 * count, 2):
        sent += frame(1, 4, stream, headers) + frame(0, 1, stream, b"\0\0\0\0\0")
    return sent


async def test_watchers_that_do_not_read_delay_no_change_of_health(settings: AttributorSettings) -> None:
    async with attributor(settings) as (address, health), channel_to(address) as channel:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as rude:
            rude.sendall(watches_that_are_never_read(10))
            watcher = watch(channel)
            assert (await watcher.read()).status == NOT_SERVING
            set_health(health, SERVING)
            assert (await watcher.read()).status == SERVING
            assert await checked(address) == SERVING


async def test_connections_are_bounded_and_make_room_when_they_close(settings: AttributorSettings) -> None:
    async def connects() -> bool:
        async with channel_to(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
            except grpc.aio.AioRpcError:
                return False
            return True

    async with attributor(replace(settings, max_connections=8)) as (address, _):
        async with AsyncExitStack() as stack:
            for _ in range(8):
                stub: Any = health_pb2_grpc.HealthStub(await stack.enter_async_context(channel_to(address)))
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert not await connects()
        async with asyncio.timeout(20):
            while not await connects():  # noqa: ASYNC110 - nothing tells when the port has noticed
                await asyncio.sleep(0.01)
