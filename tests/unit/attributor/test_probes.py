"""Health probes: the port that serves health alone, and the command `gmvaluator health`."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2

from attributor.rpc.health import HealthServicer
from attributor.server import LIVENESS, drain, serve_probes, set_health
from gmvaluator.commands.attribute import health as command
from gmvaluator.errors import PreconditionFailed

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def checker() -> HealthServicer:
    made = HealthServicer()
    set_health(made, NOT_SERVING)
    return made


async def probe(port: int, *words: str) -> tuple[int, str]:
    """Run `gmvaluator health`; return its exit code and output."""
    arguments = ["--server", f"127.0.0.1:{port}", *words]
    done: Any = await asyncio.to_thread(CliRunner().invoke, command, arguments)
    return done.exit_code, done.output.strip()


async def test_a_probe_reads_the_health_of_the_server(checker: HealthServicer) -> None:
    async with serve_probes("127.0.0.1:0", checker) as port:
        assert await probe(port) == (1, "NOT_SERVING")
        set_health(checker, SERVING)
        assert await probe(port) == (0, "SERVING")
        idle = asyncio.Event()
        idle.set()
        await drain(SimpleNamespace(close=lambda: None, idle=idle), checker, 1.0)  # type: ignore[arg-type]
        assert await probe(port) == (1, "NOT_SERVING")
        assert await probe(port, "--service", LIVENESS) == (0, "SERVING")
        assert (await probe(port, "--service", "unknown"))[0] == 1
    code, text = await probe(port, "--timeout", "0.5")
    assert code == 1
    assert "UNAVAILABLE" in text or "DEADLINE_EXCEEDED" in text


async def test_a_probe_may_wait_until_it_serves(checker: HealthServicer) -> None:
    async with serve_probes("127.0.0.1:0", checker) as port:
        assert await probe(port, "--wait", "0.3") == (1, "NOT_SERVING")
        waiting = asyncio.create_task(probe(port, "--wait", "60"))
        await asyncio.sleep(0.3)
        set_health(checker, SERVING)
        assert await waiting == (0, "SERVING")


async def test_the_port_serves_nothing_else(checker: HealthServicer) -> None:
    async with (
        serve_probes("127.0.0.1:0", checker) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel,
    ):
        call: Any = channel.unary_unary("/gmvaluator.v1.RoyaltyService/GetRoyalties")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_an_address_no_port_is_opened(checker: HealthServicer) -> None:
    async with serve_probes("", checker) as port:
        assert port == 0


async def test_a_port_that_is_taken_is_named(checker: HealthServicer) -> None:
    async with serve_probes("127.0.0.1:0", checker) as port:
        with pytest.raises(PreconditionFailed, match=str(port)):
            async with serve_probes(f"127.0.0.1:{port}", checker):
                pass
