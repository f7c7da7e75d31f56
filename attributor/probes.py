"""A port for probes: grpc.health.v1 and nothing else, without TLS, which kubelets' gRPC probes do not speak."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gmvaluator.errors import PreconditionFailed

LIVENESS = "gmvaluator.liveness"
"""Service that is SERVING for as long as the event loop answers, while models load and while calls drain too."""

_PROBES_AT_ONCE = 16


@asynccontextmanager
async def probes_answered(address: str, checker: health.aio.HealthServicer) -> AsyncGenerator[int, None]:
    """Answer at `address` what `checker` knows, until this is left; the port. Nothing is opened for an empty address.

    Raises PreconditionFailed if the address cannot be listened on.
    """
    await checker.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    if not address:
        yield 0
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=_PROBES_AT_ONCE)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PreconditionFailed(f"health cannot be answered on {address}: is another program there?") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
