"""The message interceptor: reads and writes run to their end, and a call needs a request."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from attributor.rpc.interceptors import MessageInterceptor, write_with_timeout
from attributor.rpc.places import WaitingCalls
from gmvaluator.concurrency import shield_to_completion
from tests.support.waiting import let_tasks_run, until_async

METHOD = "/gmvaluator.v1.AttributionService/Attribute"
Run = Callable[["Wire"], Awaitable[Any]]


class Wire:
    """A call's context whose reads and writes wait for their gates."""

    def __init__(self, *incoming: object) -> None:
        self.gates = {"read": asyncio.Event(), "write": asyncio.Event()}
        self.incoming = [*incoming, grpc.aio.EOF]
        self.started: list[str] = []
        self.ended: list[str] = []
        self.aborted: tuple[Any, ...] = ()

    def open(self, *operations: str) -> None:
        for operation in operations:
            self.gates[operation].set()

    def peer(self) -> str:
        return "ipv4:192.0.2.1:40000"

    async def read(self) -> object:
        await self._pass("read")
        return self.incoming.pop(0)

    async def write(self, _: object) -> None:
        await self._pass("write")

    async def _pass(self, operation: str) -> None:
        self.started.append(operation)
        await self.gates[operation].wait()
        self.ended.append(operation)

    async def abort(self, *why: object) -> None:
        self.aborted = why
        raise grpc.aio.AbortError


async def echoed_once(request: str, _: Any) -> str:
    return request


async def echoed(request: str, _: Any) -> Any:
    yield request


async def echoed_each(requests: Any, context: Any) -> None:
    async for request in requests:
        await write_with_timeout(request, context)


HANDLERS: dict[str, Any] = {
    "one for one": grpc.unary_unary_rpc_method_handler(echoed_once),
    "many for one": grpc.unary_stream_rpc_method_handler(echoed),
    "many for many": grpc.stream_stream_rpc_method_handler(echoed_each),
}


async def wrapped_method(handler: Any) -> Run:
    async def continuation(_: object) -> Any:
        return handler

    wrapped = await MessageInterceptor(WaitingCalls(100, 100)).intercept_service(
        continuation, cast(Any, SimpleNamespace(method=METHOD))
    )
    method = wrapped.stream_stream or wrapped.stream_unary
    return lambda wire: method(None, wire)


async def started(wire: Wire, operation: str) -> None:
    await until_async(lambda: operation in wire.started)


async def cancel_and_open(call: asyncio.Future[Any], wire: Wire) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    wire.open("read", "write")
    await let_tasks_run()


@pytest.mark.parametrize("shape", HANDLERS)
async def test_a_read_ends_though_its_call_is_cancelled(shape: str) -> None:
    wire = Wire("a")
    call = asyncio.ensure_future((await wrapped_method(HANDLERS[shape]))(wire))
    await started(wire, "read")
    await cancel_and_open(call, wire)
    assert wire.ended == ["read"]


@pytest.mark.parametrize("shape", ["many for one", "many for many"])
async def test_a_write_ends_though_its_call_is_cancelled(shape: str) -> None:
    wire = Wire("a")
    wire.open("read")
    call = asyncio.ensure_future((await wrapped_method(HANDLERS[shape]))(wire))
    await started(wire, "write")
    await cancel_and_open(call, wire)
    assert wire.ended == ["read", "write"]


@pytest.mark.parametrize("shape", ["one for one", "many for one"])
async def test_a_call_without_a_request_is_refused(shape: str) -> None:
    wire = Wire()
    wire.open("read")
    with pytest.raises(grpc.aio.AbortError):
        await (await wrapped_method(HANDLERS[shape]))(wire)
    assert wire.aborted == (grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one")


async def test_an_error_after_the_awaiter_was_cancelled_is_not_logged() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    gate = asyncio.Event()

    async def failing() -> None:
        await gate.wait()
        raise RuntimeError("too late")

    awaiter = asyncio.ensure_future(shield_to_completion(failing()))
    await asyncio.sleep(0)
    awaiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiter
    gate.set()
    await let_tasks_run()
    gc.collect()
    assert complaints == []
