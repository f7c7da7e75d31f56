"""The servicer of grpc.health.v1. A watcher that does not read delays neither another one nor a change of status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


# The servicer of grpc_health writes to a watcher under the lock that each change of status takes.
class HealthServicer(health_pb2_grpc.HealthServicer):
    """The status of each service by name; it belongs to one event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, status: int) -> None:
        """Set the status of a service, and tell its watchers."""
        self._statuses[service] = status
        # Each change has an event of its own, so that no watcher misses one between two waits.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(  # noqa: N802 - gRPC names methods
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of a service; NOT_FOUND if there is none of this name."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service has this name: see docs/reference/protocol.md")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the status of a service, then each other status that it takes; SERVICE_UNKNOWN if it is unknown."""
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            await changed.wait()
