"""Bytes that are no message, or too many, are the caller's mistake: INVALID_ARGUMENT, not gRPC's own UNKNOWN."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import Any

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
    read = _reading(handler.request_deserializer)
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _stream_stream(handler.stream_stream), read, handler.response_serializer
        )
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _unary_stream(handler.unary_stream), read, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(_unary_unary(handler.unary_unary), read, handler.response_serializer)


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
    async def checked(request: Any, context: Context) -> Any:
        await _refuse_unread(request, context)
        return await answer(request, context)

    return checked


def _unary_stream(answer: Callable[[Any, Context], Any]) -> Any:
    async def checked(request: Any, context: Context) -> AsyncIterator[Any]:
        await _refuse_unread(request, context)
        async with aclosing(answer(request, context)) as messages:
            async for message in messages:
                yield message

    return checked


def _stream_stream(answer: Callable[[AsyncIterator[Any], Context], Any]) -> Any:
    async def writing(requests: AsyncIterator[Any], context: Context) -> None:
        await answer(_readable(requests, context), context)

    async def checked(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async with aclosing(answer(_readable(requests, context), context)) as messages:
            async for message in messages:
                yield message

    return checked if isasyncgenfunction(answer) else writing


async def _readable(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
    async for request in requests:
        await _refuse_unread(request, context)
        yield request


async def _refuse_unread(request: Any, context: Context) -> None:
    if isinstance(request, _Unread):
        observe_refusal(request.why)
        await context.abort(grpc.StatusCode[status_of(request.why)], str(request.why))
