"""Bytes that are no message, or too many, are the caller's mistake: INVALID_ARGUMENT, not gRPC's own UNKNOWN."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from attributor.metrics import observe_refusal
from gmvaluator.errors import ImageTooLarge, InvalidInput, status_of
from gmvaluator.images import MAX_IMAGE_BYTES

MAX_REQUEST_BYTES = MAX_IMAGE_BYTES + 1024 * 1024
"""An image and all that may be said of it; what is larger is refused unread, since reading copies it twice."""

_OURS = "/gmvaluator."
_REFUSAL = "the request is no message of this method: use the contract of this release (proto/gmvaluator/v1)"

Context = grpc.aio.ServicerContext[Any, Any]
_Result = TypeVar("_Result")


async def whole(operation: Awaitable[_Result]) -> _Result:
    """A read or write of a call, which goes on to its end though the caller be cancelled meanwhile.

    grpc.aio never frees the message of one whose awaiter was cancelled (grpc/grpc issue 43360): with it, one image of
    sixty calls that were cancelled stayed in memory for good.
    """
    return await asyncio.shield(operation)


@dataclass(frozen=True, slots=True)
class _Unread:
    """In place of a message that could not be read, or was not."""

    why: InvalidInput


class Parsing(grpc.aio.ServerInterceptor):
    """Answers bytes that are no message, before a servicer sees them."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler
        return _checked(handler)


def _checked(handler: Any) -> Any:
    """Every method as one that reads and writes by itself (see `whole`)."""
    read, write = _reading(handler.request_deserializer), handler.response_serializer
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream_stream(handler.stream_stream), read, write)
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_unary_stream(handler.unary_stream), read, write)
    return grpc.stream_unary_rpc_method_handler(_unary_unary(handler.unary_unary), read, write)


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        if len(data) > MAX_REQUEST_BYTES:
            return _Unread(
                ImageTooLarge(f"the request has {len(data):,} bytes; the limit is {MAX_REQUEST_BYTES:,}: send less")
            )
        try:
            return deserialize(data)
        except DecodeError:
            return _Unread(InvalidInput(_REFUSAL))

    return read


def _unary_unary(answer: Callable[[Any, Context], Awaitable[Any]]) -> Any:
    async def checked(_: object, context: Context) -> Any:
        return await answer(await _request(context), context)

    return checked


def _unary_stream(answer: Callable[[Any, Context], Any]) -> Any:
    async def checked(_: object, context: Context) -> None:
        async with aclosing(answer(await _request(context), context)) as messages:
            async for message in messages:
                await whole(context.write(message))

    return checked


def _stream_stream(answer: Callable[[AsyncIterator[Any], Context], Awaitable[None]]) -> Any:
    async def checked(_: object, context: Context) -> None:
        await answer(_requests(context), context)

    return checked


async def _request(context: Context) -> Any:
    """The one message of a call that sends one."""
    async for request in _requests(context):
        return request
    # Nobody hears this where the caller has left before it sent all of its request.
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one")
    raise AssertionError("it aborts")


async def _requests(context: Context) -> AsyncIterator[Any]:
    while (request := await whole(context.read())) is not grpc.aio.EOF:
        await _refuse_unread(request, context)
        yield request


async def _refuse_unread(request: Any, context: Context) -> None:
    if isinstance(request, _Unread):
        observe_refusal(request.why)
        await context.abort(grpc.StatusCode[status_of(request.why)], str(request.why))
