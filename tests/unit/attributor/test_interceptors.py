"""What stands between the wire and a servicer: messages are read and written to their end, and one is needed."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from attributor.rpc.interceptors import MessageInterceptor, write_with_timeout
from gmvaluator.concurrency import shield_to_completion

METHOD = "/gmvaluator.v1.AttributionService/Attribute"
Run = Callable[["Wire"], Awaitable[Any]]


class Wire:
    """A call's context whose reads and writes wait until they are let go."""

    def __init__(self, *incoming: object) -> None:
        self.gate = asyncio.Event()
        self.incoming = [*incoming, grpc.aio.EOF]
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.aborted: tuple[Any, ...] = ()

    async def read(self) -> object:
        await self._pass("read")
        return self.incoming.pop(0)

    async def write(self, _: object) -> None:
        await self._pass("write")

    async def _pass(self, what: str) -> None:
        self.begun.append(what)
        await self.gate.wait()
        self.ended.append(what)

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


async def checked(handler: Any) -> Run:
    async def continuation(_: object) -> Any:
        return handler

    found = await MessageInterceptor().intercept_service(continuation, cast(Any, SimpleNamespace(method=METHOD)))
    answer = found.stream_stream or found.stream_unary
    return lambda wire: answer(None, wire)


async def begun(wire: Wire, what: str) -> None:
    async with asyncio.timeout(10):
        while what not in wire.begun:  # noqa: ASYNC110 - a fake has nothing to wait for
            await asyncio.sleep(0)


async def cancelled_and_let_go(call: asyncio.Future[Any], wire: Wire) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    wire.gate.set()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("shape", HANDLERS)
async def test_a_read_ends_though_its_call_is_cancelled(shape: str) -> None:
    wire = Wire("a")
    call = asyncio.ensure_future((await checked(HANDLERS[shape]))(wire))
    await begun(wire, "read")
    await cancelled_and_let_go(call, wire)
    assert wire.ended == ["read"]


@pytest.mark.parametrize("shape", ["many for one", "many for many"])
async def test_a_write_ends_though_its_call_is_cancelled(shape: str) -> None:
    wire = Wire("a")
    wire.gate.set()
    call = asyncio.ensure_future((await checked(HANDLERS[shape]))(wire))
    await begun(wire, "read")
    wire.gate.clear()
    await begun(wire, "write")
    await cancelled_and_let_go(call, wire)
    assert wire.ended == ["read", "write"]


@pytest.mark.parametrize("shape", ["one for one", "many for one"])
async def test_a_call_without_a_request_is_told_so(shape: str) -> None:
    wire = Wire()
    wire.gate.set()
    with pytest.raises(grpc.aio.AbortError):
        await (await checked(HANDLERS[shape]))(wire)
    assert wire.aborted == (grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one")


async def test_what_fails_after_its_awaiter_left_is_heard_by_nobody() -> None:
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
    await asyncio.sleep(0.01)
    gc.collect()
    assert complaints == []
