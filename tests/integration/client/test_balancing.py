"""Several attributors behind one client: calls are balanced over those that serve."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gmvaluator.client.addresses import target_of
from gmvaluator.client.aio import AsyncAttributorClient
from gmvaluator.client.connection import Connection
from gmvaluator.client.requests import SERVICE, Retries
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import InvalidInput
from gmvaluator.testing.attributor import FakeAttributor, fake_attributor
from gmvaluator.v1.attribution_pb2_grpc import add_AttributionServiceServicer_to_server

PATIENT = Retries(attempts=1_000, first_pause_s=0.01, longest_pause_s=0.1)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class WithHealth:
    """A fake attributor with a health service."""

    fake: FakeAttributor
    health: health.HealthServicer

    def set_health(self, status: int) -> None:
        self.health.set(SERVICE, status)


@contextmanager
def with_health() -> Iterator[WithHealth]:
    attributor = WithHealth(FakeAttributor(), health.HealthServicer())  # type: ignore[abstract]
    server = grpc.server(ThreadPoolExecutor(8))
    add_AttributionServiceServicer_to_server(attributor.fake, server)
    health_pb2_grpc.add_HealthServicer_to_server(attributor.health, server)
    attributor.fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    attributor.set_health(SERVING)
    server.start()
    try:
        yield attributor
    finally:
        server.stop(0).wait()


def send(client: AttributorClient, count: int, prefix: str) -> None:
    for number in range(count):
        assert len(list(client.attribute(b"x", f"{prefix}{number}", "m"))) == 2


def send_until(client: AttributorClient, fake: FakeAttributor, prefix: str) -> None:
    """Send until a call reaches `fake`: a channel connects to its addresses one after the other."""
    before = len(fake.requests)
    for number in range(10_000):
        if len(fake.requests) > before:
            return
        send(client, 1, f"{prefix}{number}:")
    raise AssertionError("no call arrived")


def test_calls_alternate_and_avoid_a_stopped_attributor() -> None:
    with ExitStack() as stack, fake_attributor() as second:
        first = stack.enter_context(fake_attributor())
        servers = f"{first.address},{second.address}"
        with AttributorClient(servers, retries=PATIENT) as client:
            send_until(client, first, "a")
            send_until(client, second, "b")
            before = len(first.requests), len(second.requests)
            send(client, 20, "c")
            assert (len(first.requests) - before[0], len(second.requests) - before[1]) == (10, 10)
            stack.close()
            send(client, 20, "d")
            with fake_attributor(first.address) as restarted:
                send_until(client, restarted, "e")


def test_an_attributor_that_does_not_serve_gets_no_new_calls() -> None:
    with with_health() as first, with_health() as second:
        with AttributorClient(f"{first.fake.address},{second.fake.address}", retries=PATIENT) as client:
            send_until(client, first.fake, "a")
            send_until(client, second.fake, "b")
            first.set_health(NOT_SERVING)
            send(client, 50, "c")  # While the new health reaches the client.
            before = len(first.fake.requests)
            send(client, 20, "d")
            assert len(first.fake.requests) == before
            first.set_health(SERVING)
            send_until(client, first.fake, "e")


async def test_the_asyncio_client_balances_too() -> None:
    with fake_attributor() as first, fake_attributor() as second:
        async with AsyncAttributorClient(f"{first.address},{second.address}", retries=PATIENT) as client:
            for number in range(1_000):
                assert [stage.stage async for stage in client.attribute(b"x", f"g{number}", "m")]
                if first.requests and second.requests:
                    break
    assert first.requests
    assert second.requests


def test_addresses_become_grpc_targets() -> None:
    assert target_of("host:1") == "host:1"
    assert target_of("dns:///attributor:1") == "dns:///attributor:1"
    assert target_of("10.0.0.1:1,10.0.0.2:1") == "ipv4:10.0.0.1:1,10.0.0.2:1"
    assert target_of("[::1]:1,[::1]:2") == "ipv6:[::1]:1,[::1]:2"


@pytest.mark.parametrize(
    "address", ["a:1,b:1", "127.0.0.1:1,[::1]:1", "127.0.0.1:1,", "127.0.0.1,127.0.0.2", ",", "1.2.3.4:x,1.2.3.4:1"]
)
def test_an_invalid_list_of_addresses_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput):
        Connection(address).channel()


def test_a_token_is_sent_in_the_clear_to_loopback_only() -> None:
    Connection("127.0.0.1:1,127.0.0.1:2", token="secret").channel().close()
    for address in ("127.0.0.1:1,10.0.0.1:1", "dns:///attributor:1"):
        with pytest.raises(InvalidInput, match="in the clear"):
            Connection(address, token="secret").channel()


def test_several_addresses_over_tls_need_a_name() -> None:
    with pytest.raises(InvalidInput, match="GMV_TLS_NAME"):
        Connection("10.0.0.1:1,10.0.0.2:1", tls=True).channel()
    Connection("10.0.0.1:1,10.0.0.2:1", tls=True, server_name="attributor").channel().close()
