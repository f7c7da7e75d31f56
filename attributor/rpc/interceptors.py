"""Messages between the wire and a servicer: each read and written to its end, and in time.

Bytes that are no message, or too many, are the caller's mistake: INVALID_ARGUMENT, not gRPC's own UNKNOWN.

Every call passes here before its message is read: who calls, and may they?
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
"""An image and all that may be said of it; what is larger is refused unread, since reading copies it twice."""

UNREAD_S = 60.0
"""After this time without a reader a call is given up, and its place with it."""

UNSENT_S = 60.0
"""After this time without its whole request a call is given up."""

_OURS = "/gmvaluator."
_REFUSAL = "the request is no message of this method: use the contract of this release (proto/gmvaluator/v1)"

Context = grpc.aio.ServicerContext[Any, Any]


class Unread(Unavailable):
    """Nobody reads what is answered."""


@dataclass(frozen=True, slots=True)
class _Unparsed:
    """In place of a message that could not be read, or was not."""

    why: InvalidInput


class MessageInterceptor(grpc.aio.ServerInterceptor):
    """Stands before every servicer of ours."""

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
    """Every method as one that reads and writes by itself, each message to its end."""
    read, write = _reading(handler.request_deserializer), handler.response_serializer
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream_stream(handler.stream_stream), read, write)
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_unary_stream(handler.unary_stream), read, write)
    return grpc.stream_unary_rpc_method_handler(_unary_unary(handler.unary_unary), read, write)


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        if len(data) > MAX_REQUEST_BYTES:
            return _Unparsed(
                ImageTooLarge(f"the request has {len(data):,} bytes; the limit is {MAX_REQUEST_BYTES:,}: send less")
            )
        try:
            return deserialize(data)
        except DecodeError:
            return _Unparsed(InvalidInput(_REFUSAL))

    return read


def _unary_unary(answer: Callable[[Any, Context], Awaitable[Any]]) -> Any:
    async def checked(_: object, context: Context) -> Any:
        return await answer(await _request(context), context)

    return checked


def _unary_stream(answer: Callable[[Any, Context], Any]) -> Any:
    async def checked(_: object, context: Context) -> None:
        request = await _request(context)
        try:
            async with aclosing(answer(request, context)) as messages:
                async for message in messages:
                    await written(message, context)
        except Unread as error:
            # Out of the block above: whoever does not read the answer keeps no place while this waits for them.
            await _refuse(error, context)

    return checked


def _stream_stream(answer: Callable[[AsyncIterator[Any], Context], Awaitable[None]]) -> Any:
    async def checked(_: object, context: Context) -> None:
        await answer(_requests(context), context)

    return checked


async def written(message: Any, context: Context) -> None:
    """Write one message. Raises Unread if nobody takes it for `UNREAD_S`."""
    try:
        # Not wait_for: in Python 3.11 it may lose a cancellation.
        async with asyncio.timeout(UNREAD_S):
            await shield_to_completion(context.write(message))
    except TimeoutError:
        why = f"nobody read the answers for {UNREAD_S:.0f} s: read on, and send the images again"
        raise Unread(why) from None


async def _request(context: Context) -> Any:
    """The one message of a call that sends one."""
    try:
        async with asyncio.timeout(UNSENT_S):
            request = await _read(context)
    except TimeoutError:
        await _refuse(Unavailable(f"no request came within {UNSENT_S:.0f} s: send it at once"), context)
    if request is grpc.aio.EOF:
        # Nobody hears this where the caller has left before it sent all of its request.
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one")
    return request


async def _requests(context: Context) -> AsyncIterator[Any]:
    while (request := await _read(context)) is not grpc.aio.EOF:
        yield request


async def _read(context: Context) -> Any:
    request = await shield_to_completion(context.read())
    if isinstance(request, _Unparsed):
        await _refuse(request.why, context)
    return request


async def _refuse(why: GmvaluatorError, context: Context) -> NoReturn:
    observe_refusal(why)
    await context.abort(grpc.StatusCode[status_of(why)], str(why))


_AUTHORIZATION = "authorization"
_calling: ContextVar[Caller] = ContextVar("caller")
_log = structlog.get_logger("attributor")


def current_caller() -> Caller:
    """Who made the call that is being answered. Raises Unauthenticated if the server has no `Authentication`."""
    try:
        return _calling.get()
    except LookupError:
        raise Unauthenticated("nobody was authenticated: give the server the Authentication interceptor") from None


class Authentication(grpc.aio.ServerInterceptor):
    """Lets a call through if its token's role may make it; `current_caller` then says who it is."""

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
                # Unknown methods are answered UNIMPLEMENTED, once it is known who asks.
                return None
            check_call(caller, method)
        except GmvaluatorError as error:
            observe_refusal(error)
            _log.info("refused", method=method, error=str(error))
            return _refusal(grpc.StatusCode[status_of(error)], str(error))
        # grpc.aio answers a call in the task that runs its interceptors, so this is seen by the handler alone.
        _calling.set(caller)
        return handler


def _token(details: grpc.HandlerCallDetails) -> str | None:
    sent = [value for key, value in details.invocation_metadata or () if key == _AUTHORIZATION]
    if len(sent) > 1:
        raise Unauthenticated("several authorization headers were sent: send one")
    return bearer_token(str(sent[0])) if sent else None


def _refusal(code: grpc.StatusCode, message: str) -> Any:
    """A handler of any shape that answers this status alone, and reads no message."""

    async def refuse(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: ARG001
        await context.abort(code, message)

    return grpc.stream_stream_rpc_method_handler(refuse)
