"""The attributor's port before the models are loaded: health and reflection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import CallGate
from attributor.server import SERVICES, listen, load_authenticator
from attributor.settings import AttributorSettings
from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, new_token, token_sha256


@asynccontextmanager
async def listening(settings: AttributorSettings) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a server whose gate is not open yet."""
    gate = CallGate(Admission(8, 10**9))
    server, _, address = await listen(settings, gate, asyncio.Event(), load_authenticator(settings), None)
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def settings(tmp_path: Path) -> AttributorSettings:
    return AttributorSettings(tmp_path, address="127.0.0.1:0")


def with_a_token(settings: AttributorSettings) -> tuple[AttributorSettings, tuple[tuple[str, str], ...]]:
    """Return settings that require a token, and an operator's metadata."""
    token = new_token()
    add_token(settings.tokens_file, Token("operator", Role.OPERATOR, token_sha256(token), "2026-01-01T00:00:00+00:00"))
    return settings, (("authorization", f"Bearer {token}"),)


async def described(channel: grpc.aio.Channel, metadata: Any = ()) -> list[str]:
    """Return the services that reflection lists."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = [answer async for answer in stub.ServerReflectionInfo(requests, metadata=metadata, timeout=20)]
    return [service.name for answer in answers for service in answer.list_services_response.service]


async def test_until_it_is_warm_no_service_is_serving(settings: AttributorSettings) -> None:
    async with listening(settings) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in SERVICES:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_is_on_without_tokens(settings: AttributorSettings) -> None:
    async with listening(settings) as channel:
        assert set(SERVICES[1:]) <= set(await described(channel))


async def test_reflection_is_off_with_tokens(settings: AttributorSettings) -> None:
    closed, operator = with_a_token(settings)
    async with listening(closed) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await described(channel, operator)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with listening(replace(closed, reflection=True)) as channel:
        assert set(SERVICES[1:]) <= set(await described(channel, operator))
