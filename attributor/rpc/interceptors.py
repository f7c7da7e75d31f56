"""Server interceptors: authentication of calls, and reading and writing of messages.

`Authentication` refuses a call before its message is read. `MessageInterceptor` reads and writes each message to its
end, with a timeout and in a bounded number of places, and answers bytes that are no message, or too many, with
INVALID_ARGUMENT where gRPC itself would answer UNKNOWN.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from attributor.ops.metrics import observe_refusal
from attributor.rpc.places import WaitingCalls, address_of
from gmvaluator.auth.authenticator import Authenticator, bearer_token
from gmvaluator.auth.roles import LOCAL, PUBLIC, Caller, check_call
from gmvaluator.concurrency import shield_to_completion
from gmvaluator.errors import (
    GmvaluatorError,
    ImageTooLarge,
    InvalidInput,
    Overloaded,
    Unauthenticated,
    Unavailable,
    status_of,
)
from gmvaluator.images import MAX_IMAGE_BYTES

MAX_REQUEST_BYTES = MAX_IMAGE_BYTES + 1024 * 1024
"""Limit of a request: an image and its fields, in bytes. A larger one is refused unparsed: parsing copies it twice."""

WRITE_TIMEOUT_S = 60.0
"""Time that a caller may take to read a message; then the call ends and frees its slot."""

READ_TIMEOUT_S = 60.0
"""Time that a caller may take to send its request; then the call ends."""

STREAM_TIMEOUT_S = 600.0
"""Time that a caller may take to send the first image of a stream; generating it may take minutes."""

PUBLIC_TIMEOUT_S = 5.0
"""Time that a caller may take to send a request that needs no token."""

MAX_PUBLIC_BYTES = 4 * 1024
"""Limit of a request that needs no token, in bytes: it names a service."""

PUSHBACK_MS = 250
"""Retry delay sent with RESOURCE_EXHAUSTED where the error names none."""

_OUR_SERVICES = "/gmvaluator."
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_REFUSAL = "the request is no message of this method: use the contract of this release (proto/gmvaluator/v1)"

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Any]


class ReaderStalled(Unavailable):
    """The caller does not read the responses."""


@dataclass(frozen=True, slots=True)
class _Unparsed:
    """A message that could not be parsed, or was too large for it."""

    error: InvalidInput


class MessageInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that reads and writes each message with a timeout, and bounds the calls that wait."""

    def __init__(self, waiting: WaitingCalls) -> None:
        self._waiting = waiting

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrapped(handler, handler_call_details.method)

    def _wrapped(self, handler: Any, path: str) -> Any:
        """Return a handler that reads and writes messages itself; grpc.aio would do both for another shape."""
        public = path in PUBLIC
        # Health and reflection have no other limit, and their streams may stay open for ever.
        counted = not path.startswith(_OUR_SERVICES)
        method: Method = handler.stream_stream or handler.unary_stream or handler.unary_unary
        if path == HEALTH_WATCH:
            method = self._in_a_watch_place(method)

        async def call(_: object, context: Context) -> Any:
            try:
                if counted:
                    self._waiting.connections.count(context)
                # Nothing here may keep the first image of a stream while the others are valued.
                first = self._first_message(context, public, handler.request_streaming)
                if handler.request_streaming:
                    return await _answer(method, _requests(await first, context), context)
                return await _answer(method, await _required(await first, context), context)
            except (Overloaded, Unavailable) as error:
                await _refuse(error, context)

        parse = _parser(handler.request_deserializer, MAX_PUBLIC_BYTES if public else MAX_REQUEST_BYTES)
        streams = handler.response_streaming
        shape = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
        return shape(call, parse, handler.response_serializer)

    def _in_a_watch_place(self, method: Method) -> Method:
        async def watch(request: Any, context: Context) -> None:
            connection = context.peer()
            async with self._waiting.watches.place(address_of(connection), connection):
                await _answer(method, request, context)

        return watch

    async def _first_message(self, context: Context, public: bool, streaming: bool) -> Any:
        """Read the first message, or EOF. Raises Overloaded, or Unavailable if none comes in time."""
        connection = context.peer()
        owner, places = address_of(connection), self._waiting.strangers
        if not public:
            caller = _current_caller.get(LOCAL)
            owner, places = owner if caller is LOCAL else caller.name, self._waiting.callers
        timeout_s = PUBLIC_TIMEOUT_S if public else STREAM_TIMEOUT_S if streaming else READ_TIMEOUT_S
        async with places.place(owner, connection):
            try:
                async with asyncio.timeout(timeout_s):
                    return await _read(context)
            except TimeoutError:
                raise Unavailable(f"no request came within {timeout_s:.0f} s: send it at once") from None


def _parser(deserialize: Callable[[bytes], Any], max_bytes: int) -> Callable[[bytes], Any]:
    """Return a deserializer that raises nothing: grpc.aio would answer UNKNOWN."""

    def parse(data: bytes) -> Any:
        if len(data) > max_bytes:
            return _Unparsed(
                ImageTooLarge(f"the request has {len(data):,} bytes; the limit is {max_bytes:,}: send less")
            )
        try:
            return deserialize(data)
        except DecodeError:
            return _Unparsed(InvalidInput(_REFUSAL))

    return parse


async def _answer(method: Method, request: Any, context: Context) -> Any:
    """Call a method and write what it yields, if it does; return its response otherwise."""
    responses = method(request, context)
    if not isinstance(responses, AsyncGenerator):
        return await responses
    # When a reader stalls, its error leaves this block first, which frees the call's slot: a status waits for the
    # reader, too.
    async with aclosing(responses):
        async for response in responses:
            await write_with_timeout(response, context)
    return None


async def write_with_timeout(message: Any, context: Context) -> None:
    """Write one message. Raises ReaderStalled if the caller does not read it within `WRITE_TIMEOUT_S`."""
    try:
        # Not wait_for: in Python 3.11 it may lose a cancellation.
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await shield_to_completion(context.write(message))
    except TimeoutError:
        why = f"nobody read the answers for {WRITE_TIMEOUT_S:.0f} s: read on, and send the images again"
        raise ReaderStalled(why) from None


async def _required(request: Any, context: Context) -> Any:
    if request is grpc.aio.EOF:
        # A caller that cancelled before it had sent its whole request ends here as well, and gets no status.
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one")
    return request


async def _requests(request: Any, context: Context) -> AsyncIterator[Any]:
    while request is not grpc.aio.EOF:
        yield request
        request = await _read(context)


async def _read(context: Context) -> Any:
    request = await shield_to_completion(context.read())
    if isinstance(request, _Unparsed):
        await _refuse(request.error, context)
    return request


async def _refuse(error: GmvaluatorError, context: Context) -> NoReturn:
    observe_refusal(error)
    await context.abort(grpc.StatusCode[status_of(error)], str(error), trailing_metadata(error))


def trailing_metadata(error: GmvaluatorError) -> tuple[tuple[str, str], ...]:
    """Return the metadata that ends a refused call: the retry delay, if it was refused for overload."""
    if not isinstance(error, Overloaded):
        return ()
    delay_ms = PUSHBACK_MS if error.retry_after_ms is None else error.retry_after_ms
    return (("grpc-retry-pushback-ms", str(delay_ms)),)


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
