"""Server interceptors: authentication of calls, and reading and writing of messages.

`Authentication` refuses a call before its message is read. `MessageInterceptor` reads and writes each message to its
end, with a timeout, and answers bytes that are no message, or too many, with INVALID_ARGUMENT where gRPC itself would
answer UNKNOWN.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from attributor.ops.metrics import observe_refusal
from gmvaluator.auth.authenticator import Authenticator, bearer_token
from gmvaluator.auth.roles import PUBLIC, Caller, check_call
from gmvaluator.concurrency import shield_to_completion
from gmvaluator.errors import GmvaluatorError, ImageTooLarge, InvalidInput, Unauthenticated, Unavailable, status_of
from gmvaluator.images import MAX_IMAGE_BYTES

MAX_REQUEST_BYTES = MAX_IMAGE_BYTES + 1024 * 1024
"""Limit of a request: an image and its fields, in bytes. A larger one is refused unparsed: parsing copies it twice."""

WRITE_TIMEOUT_S = 60.0
"""Time that a caller may take to read a message; then the call ends and frees its slot."""

READ_TIMEOUT_S = 60.0
"""Time that a caller may take to send its request; then the call ends."""

_OUR_SERVICES = "/gmvaluator."
_REFUSAL = "the request is no message of this method: use the contract of this release (proto/gmvaluator/v1)"

Context = grpc.aio.ServicerContext[Any, Any]


class ReaderStalled(Unavailable):
    """The caller does not read the responses."""


@dataclass(frozen=True, slots=True)
class _Unparsed:
    """A message that could not be parsed, or was too large for it."""

    error: InvalidInput


class MessageInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor of gmvaluator's services that reads and writes each message with a timeout."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OUR_SERVICES):
            return handler
        return _wrap(handler)


def _wrap(handler: Any) -> Any:
    """Return a handler that reads and writes messages itself; grpc.aio would do both for a method of another shape."""
    read, write = _parser(handler.request_deserializer), handler.response_serializer
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream_stream(handler.stream_stream), read, write)
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_unary_stream(handler.unary_stream), read, write)
    return grpc.stream_unary_rpc_method_handler(_unary_unary(handler.unary_unary), read, write)


def _parser(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that raises nothing: grpc.aio would answer UNKNOWN."""

    def parse(data: bytes) -> Any:
        if len(data) > MAX_REQUEST_BYTES:
            return _Unparsed(
                ImageTooLarge(f"the request has {len(data):,} bytes; the limit is {MAX_REQUEST_BYTES:,}: send less")
            )
        try:
            return deserialize(data)
        except DecodeError:
            return _Unparsed(InvalidInput(_REFUSAL))

    return parse


def _unary_unary(method: Callable[[Any, Context], Awaitable[Any]]) -> Any:
    async def wrapped(_: object, context: Context) -> Any:
        return await method(await _request(context), context)

    return wrapped


def _unary_stream(method: Callable[[Any, Context], Any]) -> Any:
    async def wrapped(_: object, context: Context) -> None:
        request = await _request(context)
        try:
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    await write_with_timeout(response, context)
        except ReaderStalled as error:
            # Outside the block above, which frees the call's slot: the status waits for the reader, too.
            await _refuse(error, context)

    return wrapped


def _stream_stream(method: Callable[[AsyncIterator[Any], Context], Awaitable[None]]) -> Any:
    async def wrapped(_: object, context: Context) -> None:
        await method(_requests(context), context)

    return wrapped


async def write_with_timeout(message: Any, context: Context) -> None:
    """Write one message. Raises ReaderStalled if the caller does not read it within `WRITE_TIMEOUT_S`."""
    try:
        # Not wait_for: in Python 3.11 it may lose a cancellation.
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await shield_to_completion(context.write(message))
    except TimeoutError:
        why = f"nobody read the answers for {WRITE_TIMEOUT_S:.0f} s: read on, and send the images again"
        raise ReaderStalled(why) from None


async def _request(context: Context) -> Any:
    """Read the request of a unary call; end the call if none comes in time."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            request = await _read(context)
    except TimeoutError:
        await _refuse(Unavailable(f"no request came within {READ_TIMEOUT_S:.0f} s: send it at once"), context)
    if request is grpc.aio.EOF:
        # A caller that cancelled before it had sent its whole request ends here as well, and gets no status.
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one")
    return request


async def _requests(context: Context) -> AsyncIterator[Any]:
    while (request := await _read(context)) is not grpc.aio.EOF:
        yield request


async def _read(context: Context) -> Any:
    request = await shield_to_completion(context.read())
    if isinstance(request, _Unparsed):
        await _refuse(request.error, context)
    return request


async def _refuse(error: GmvaluatorError, context: Context) -> NoReturn:
    observe_refusal(error)
    await context.abort(grpc.StatusCode[status_of(error)], str(error))


_AUTHORIZATION = "authorization"
_current_caller: ContextVar[Caller] = ContextVar("caller")
_log = structlog.get_logger("attributor")


def current_caller() -> Caller:
    """Return the caller of the current call. Raises Unauthenticated if the server has no `Authentication`."""
    try:
        return _current_caller.get()
    except LookupError:
        raise Unauthenticated("nobody was authenticated: give the server the Authentication interceptor") from None


class Authentication(grpc.aio.ServerInterceptor):
    """An interceptor that refuses a call unless its token's role allows it.

    While a call that is allowed runs, `current_caller` returns the token's holder.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        if method in PUBLIC:
            return await continuation(handler_call_details)
        try:
            caller = self._authenticator.authenticate(_token(handler_call_details))
            handler = await continuation(handler_call_details)
            if handler is None:
                # Only an authenticated caller learns, by UNIMPLEMENTED, which methods do not exist.
                return None
            check_call(caller, method)
        except GmvaluatorError as error:
            observe_refusal(error)
            _log.info("refused", method=method, error=str(error))
            return _refusal(grpc.StatusCode[status_of(error)], str(error))
        # grpc.aio runs a call's handler in the task that ran its interceptors, so no other call sees this value.
        _current_caller.set(caller)
        return handler


def _token(details: grpc.HandlerCallDetails) -> str | None:
    headers = [value for key, value in details.invocation_metadata or () if key == _AUTHORIZATION]
    if len(headers) > 1:
        raise Unauthenticated("several authorization headers were sent: send one")
    return bearer_token(str(headers[0])) if headers else None


def _refusal(code: grpc.StatusCode, message: str) -> Any:
    """Return a handler that ends any call with this status, and reads no message."""

    async def refuse(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: ARG001
        await context.abort(code, message)

    return grpc.stream_stream_rpc_method_handler(refuse)
